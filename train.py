"""The door: `python train.py` with Hydra overrides. The configuration lies beside this file."""

import sys
from pathlib import Path

from handgrad.cli import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent / "conf"))
