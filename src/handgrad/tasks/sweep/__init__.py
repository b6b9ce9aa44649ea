"""A sweep of many runs: Hydra's callback names them first, and sums them up at the end."""

import sys
import traceback
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from handgrad.config.compose import arguments, parsed, typed
from handgrad.config.errors import Failed, files_in_one_line
from handgrad.tasks.sweep.job import run_name

# A sweep's processes import this module too, before Hydra asks for their folders.
OmegaConf.register_new_resolver("run_name", run_name, replace=True)


class Sweep(Callback):
    """Names the runs of a sweep after their overrides, and ends it with one table for all.

    Its exit code is the worst of its runs'.

    Args:
        order_by: the figure of metrics.json that orders the table; None for what
            `callbacks.checkpoint.monitor` says.
    """

    def __init__(self, order_by: str | None = None) -> None:
        self.order_by = order_by
        self.folder = Path()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Tell all runs, which may be other processes, the folder and what they have in common."""
        self.folder = Path(config.hydra.sweep.dir)  # in other processes its date would be later
        same, swept = _parted(list(config.hydra.overrides.task))
        if (others := self.folder / "multirun.yaml").is_file():
            before, keys = _parted(list(OmegaConf.load(others).hydra.overrides.task))
            if (before, keys) != (same, swept):
                was = " ".join([*(f"{key}={value}" for key, value in before.items()), *keys])
                print(
                    f"train.py: hydra.sweep.dir={self.folder}: belongs to another sweep "
                    f"({was}); name another folder",
                    file=sys.stderr,
                )
                sys.exit(2)
        with open_dict(config):
            config.hydra.overrides.hydra += [
                f"hydra.sweep.dir={typed(self.folder)}",
                f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(typed, same))}]",
            ]
        print(
            f"The runs are in {self.folder}. If the sweep is interrupted, continue it with the "
            f"same command and {arguments({'hydra.sweep.dir': self.folder})}",
            flush=True,
        )

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Sum up, and leave by SystemExit where a run did not end well."""
        from handgrad.tasks.sweep.summary import summarise  # late: it brings matplotlib and torch

        code = 1
        try:
            with files_in_one_line(self.folder):
                code = summarise(self.folder, self.order_by)
        except Failed as error:
            print(error, file=sys.stderr)
        except Exception:  # Hydra would swallow it
            traceback.print_exc()
        if code:
            sys.exit(code)


def _parted(overrides: list[str]) -> tuple[dict[str, str], list[str]]:
    """Split overrides into what is the same in all runs, key and value, and the swept keys."""
    given = parsed(overrides)
    same = {
        each.key_or_group: str(each.get_value_element_as_str())
        for each in given
        if not each.is_sweep_override()
    }
    return same, [each.key_or_group for each in given if each.is_sweep_override()]
