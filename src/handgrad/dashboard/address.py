"""How the dashboard is opened: one command, and one address with the right cards on top."""

import json
import shlex
from pathlib import Path
from urllib.parse import quote

from handgrad.dashboard.sections import pinned

PORT = 6006
SAMPLES = "images=200,histograms=200,pr_curves=200,text=50"  # TensorBoard keeps ten pictures else


def command(logs: Path) -> str:
    """The command that serves a folder of runs to this machine alone, with every picture."""
    return (
        f"tensorboard --logdir {shlex.quote(str(logs))} --host 127.0.0.1 --port {PORT} "
        f"--samples_per_plugin {SAMPLES}"
    )


def url(tier: str) -> str:
    """The address of the time series: key cards pinned, and no smoothing to hide first points."""
    cards = [{"plugin": "scalars", "tag": tag} for tag in pinned(tier)]
    said = quote(json.dumps(cards, separators=(",", ":")), safe=":,/")
    smoothing = "#timeseries&_smoothingWeight=0"  # the second one is for the other tabs
    return f"http://127.0.0.1:{PORT}/?pinnedCards={said}&smoothing=0{smoothing}"
