"""Pictures of TensorBoard for the documentation: `python tests/screenshots.py` makes them anew.

It trains with `train.py`, opens what TensorBoard shows of it in Chromium, and writes small PNGs.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import board
from PIL import Image

from handgrad.dashboard import address

ROOT = Path(__file__).parent.parent
ONE = {"digits": ("dashboard=full",)}
SEVERAL = {
    "plain": ("optimizer.lr=0.5",),
    "momentum": ("optimizer=momentum", "optimizer.lr=0.1"),
    "adam": ("optimizer=adam", "optimizer.lr=0.01", "model.hidden=32"),
}
TABS = {  # what to train, and how much of the tab is seen, in pixels
    "timeseries": (ONE, (1500, 1250)),
    "custom_scalars": (ONE, (1500, 1480)),
    "images": (ONE, (1500, 1600)),
    "hparams": (SEVERAL, (1500, 420)),
}
WIDTH = 1100  # of what is written, in pixels
COLOURS = 128
LOADING = 10.0  # seconds that TensorBoard takes at most to read a few runs


def train(logs: Path, runs: dict[str, tuple[str, ...]]) -> None:
    """Train each run as its user would."""
    logs.mkdir()
    for name, overrides in runs.items():
        command = [sys.executable, str(ROOT / "train.py"), "trainer.enable_progress_bar=false"]
        folder = f"hydra.run.dir={logs / name}"
        subprocess.run([*command, folder, *overrides], check=True, cwd=logs.parent)


def seen(url: str, tab: str, size: tuple[int, int]) -> Image.Image:
    """What a browser shows of a tab, at the address that train.py prints."""
    _, _, question = address.url("full").partition("/?")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        where = f"{url}/?{question}".replace("#timeseries", f"#{tab}")
        board.browse(where, f"--screenshot={shot}", size=size)
        return Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")


def write(image: Image.Image, path: Path) -> None:
    """Write an image small enough for a repository."""
    height = round(image.height * WIDTH / image.width)
    small = image.resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / ".github" / "docs")
    folder = parser.parse_args().folder
    if board.browser() is None:
        sys.exit(f"no browser: install one of {', '.join(board.BROWSERS)}")
    with tempfile.TemporaryDirectory() as work:
        for number, runs in enumerate((ONE, SEVERAL)):
            logs = Path(work) / f"logs{number}"
            train(logs, runs)
            with board.served(logs, "--samples_per_plugin", address.SAMPLES) as url:
                time.sleep(LOADING)
                for tab, (of, size) in TABS.items():
                    if of is runs:
                        write(seen(url, tab, size), folder / f"tensorboard_{tab}.png")


if __name__ == "__main__":
    main()
