"""TensorBoard over a folder of runs, and a browser that opens it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-3d-apis", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--virtual-time-budget=20000"),
)


@contextmanager
def served(logs: Path, *options: str) -> Iterator[str]:
    """Yield the address of a TensorBoard over a folder of runs, at a free port of this machine."""
    arguments = ["--logdir", str(logs), "--host", "127.0.0.1", "--port", "0", *options]
    command = [sys.executable, "-m", "tensorboard.main", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        heard = Path(folder) / "said"
        with heard.open("w") as said:
            board = subprocess.Popen(command, stderr=said, process_group=0)
        try:
            while "http://" not in heard.read_text():
                assert board.poll() is None, heard.read_text()
                time.sleep(0.05)
            told = heard.read_text()
            yield told[told.index("http://") :].split()[0].rstrip("/")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(board.pid, signal.SIGKILL)  # and its reader
            board.wait()


def browser() -> str | None:
    """Return the path of Chromium or Chrome, or None where neither is installed."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def browse(url: str, *wanted: str, size: tuple[int, int] = (1600, 1200)) -> str:
    """Open an address in a headless browser and return its output.

    Args:
        url: to be opened.
        wanted: `--dump-dom`, or `--screenshot=FILE`.
        size: of the page, in pixels.
    """
    program = browser()
    assert program is not None
    with tempfile.TemporaryDirectory() as profile:
        look = [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        done = subprocess.run(
            [program, *FLAGS, *look, *wanted, url], capture_output=True, text=True, timeout=120
        )
    return done.stdout
