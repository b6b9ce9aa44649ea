"""Dashboard of a training in TensorBoard, which reads and never changes the training."""
