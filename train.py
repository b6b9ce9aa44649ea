"""The door: `python train.py` with Hydra overrides. The configuration lies beside this file."""

import sys
from pathlib import Path

from handgrad.devices import signals

if __name__ == "__main__":
    with signals.handled():  # before the imports, which take a while
        from handgrad.tasks.cli import main

        code = main(Path(__file__).resolve().parent / "conf")
    sys.exit(code)
