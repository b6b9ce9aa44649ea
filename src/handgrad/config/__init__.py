"""The typed configuration: its schema, and one-line refusals of what does not fit."""
