"""Make the documentation's pictures of TensorBoard anew.

    python tests/tools/screenshots.py

It trains with `train.py`, opens what TensorBoard shows of it in Chromium, and writes small PNGs.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' helpers
import board
from PIL import Image

from handgrad.dashboard import sections

ROOT = Path(__file__).parents[2]
RUNS = {
    "digits": ("dashboard=full",),
    "momentum": ("optimizer=momentum", "optimizer.lr=0.1"),
    "adam": ("optimizer=adam", "optimizer.lr=0.01", "model.hidden=32"),
    "moons": ("data=moons", "model.hidden=8", "optimizer=adam", "optimizer.lr=0.05"),
}
SWEEP = ("-m", "model.hidden=10,30,100", "seed=1,2,3")
TABS = {  # whose runs are shown, and how much of the tab is seen, in pixels
    "timeseries": (("digits",), (1500, 1250)),
    "custom_scalars": (("digits",), (1500, 1480)),
    "images": (("digits", "moons"), (1500, 1640)),
    "hparams": (("digits", "momentum", "adam", "moons"), (1500, 440)),
}
WIDTH = 1000  # of what is written, in pixels
COLOURS = 128
LOADING = 10.0  # seconds that TensorBoard takes at most to read a few runs


def train(folder: Path, overrides: tuple[str, ...], key: str = "hydra.run.dir") -> None:
    """Train as a user would."""
    command = [sys.executable, str(ROOT / "train.py"), "trainer.enable_progress_bar=false"]
    where = f"{key}={folder}"
    subprocess.run([*command, where, *overrides], check=True, cwd=folder.parent)


def seen(url: str, tab: str, size: tuple[int, int]) -> Image.Image:
    """What a browser shows of a tab, at the address that train.py prints."""
    _, _, question = sections.url("full").partition("/?")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        where = f"{url}/?{question}".replace("#timeseries", f"#{tab}")
        board.browse(where, f"--screenshot={shot}", size=size)
        return Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")


def write(image: Image.Image, path: Path) -> None:
    """Write an image small enough for a repository."""
    height = round(image.height * WIDTH / image.width)
    small = image.resize((WIDTH, height), Image.Resampling.LANCZOS)
    few = small.quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / ".github" / "docs")
    folder = parser.parse_args().folder
    if board.browser() is None:
        sys.exit(f"no browser: install one of {', '.join(board.BROWSERS)}")
    with tempfile.TemporaryDirectory() as work:
        for name, overrides in RUNS.items():
            train(Path(work) / name, overrides)
        for tab, (names, size) in TABS.items():
            logs = Path(work) / f"logs_{tab}"
            logs.mkdir()
            for name in names:
                (logs / name).symlink_to(Path(work) / name)
            with board.served(logs, "--samples_per_plugin", sections.SAMPLES) as url:
                time.sleep(LOADING)
                write(seen(url, tab, size), folder / f"tensorboard_{tab}.png")
        sweep = Path(work) / "sizes"
        train(sweep, SWEEP, "hydra.sweep.dir")
        write(Image.open(sweep / "results.png").convert("RGB"), folder / "sweep.png")
        with board.served(sweep) as url:
            time.sleep(LOADING)
            write(seen(url, "hparams", (1500, 560)), folder / "sweep_hparams.png")


if __name__ == "__main__":
    main()
