"""Files that a run leaves in its folder, and how a training goes on from them."""
