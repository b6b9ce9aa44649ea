"""What `task=` names: each module has run(config, overrides, folder)."""
