"""What TensorBoard shows of a training: it reads, and never changes what is trained."""
