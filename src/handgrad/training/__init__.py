"""One update and what it is made of, without Lightning: a plain loop can drive it."""
