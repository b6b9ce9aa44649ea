"""Pictures of a network, each a pure function of tensors, drawn without global state."""
