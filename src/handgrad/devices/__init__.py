"""Processes, signals, threads, and what keeps the weights of all devices equal."""
