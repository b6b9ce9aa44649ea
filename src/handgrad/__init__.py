"""Gradients of a two-layer sigmoid network, written by hand, proved, shown and fast."""
