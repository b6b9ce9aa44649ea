"""Files that a run leaves in its folder, and how a training resumes from them."""
