"""What TensorBoard shows of a training, and nothing that changes it."""
