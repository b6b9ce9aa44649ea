"""Tasks that `task=` names: each module has run(config, overrides, folder)."""
