"""Lightning's messages and signal handlers, as far as a run does without them."""

import logging
import warnings

import lightning as L


def hide_hints() -> None:
    """Silence hints about hardware and DataLoader workers, and deprecations inside Lightning."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # ours are sums over all
    warnings.filterwarnings("ignore", message="Checkpoint directory .* is not empty")  # on resuming
    warnings.filterwarnings("ignore", message=".*Previous log files in this directory")  # of CSV
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")


def take_over_signals(trainer: L.Trainer) -> None:
    """Take SIGTERM from Lightning, whose handler hangs on several devices.

    Its broadcast before each block goes too: `SignalStop` does the same with one integer.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
