"""Many runs: short names for them, and one summary, so that nobody has to open every curve."""
