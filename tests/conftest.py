"""Shared by all tests: one thread, a folder of its own for each, and `train.py` as a function.

No test writes into the checkout: each begins in its own `tmp_path`, and the session fails where a
file has appeared all the same. What takes seconds to import is imported where it is needed: the
process that deals the tests out to others needs none of it, and those wait for it.
"""

from __future__ import annotations

import gc
import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the subprocesses

import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import lightning as L

    from handgrad.data.module import ExampleData
    from handgrad.module import TwoLayerNetwork

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
CACHES = (".pytest_cache", ".ruff_cache", ".hypothesis", ".venv", "__pycache__", ".egg-info")
settings.register_profile("unhurried", deadline=None)  # another program may have the processor
settings.load_profile("unhurried")
STRAYS = pytest.StashKey[set[str]]()


def strays() -> set[str]:
    """Return what git does not track in the checkout, caches aside, with the newest run's name."""
    command = ["git", "status", "--porcelain", "--ignored=matching"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return set()
    lines = {
        line
        for line in done.stdout.splitlines()
        if line.startswith(("??", "!!")) and not any(cache in line for cache in CACHES)
    }
    latest = ROOT / ".latest"
    return lines | ({f"!! .latest -> {os.readlink(latest)}"} if latest.is_symlink() else set())


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # which a worker of xdist has
        session.config.stash[STRAYS] = strays()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    before = session.config.stash.get(STRAYS, None)
    if before is not None and (appeared := strays() - before):
        print("\nin the checkout appeared:", *sorted(appeared), sep="\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def outside_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Begin the fixtures that several tests share in a temporary folder, with one thread."""
    import torch

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # what is imported stays: the collector need not look at it again and again
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("shared"))
        yield


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin each test in its `tmp_path`."""
    monkeypatch.chdir(tmp_path)


class Answer(NamedTuple):
    """Holds what a run of train.py answered."""

    code: int
    out: str
    err: str
    folder: Path  # where the run was to leave its files; it need not exist


class Fitted(NamedTuple):
    """Holds a network that was trained, with all that it was trained with."""

    network: TwoLayerNetwork
    data: ExampleData
    trainer: L.Trainer


Train = Callable[..., Answer]


@pytest.fixture
def train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Train:
    """Run `python train.py ARGUMENTS` in this process, in tmp_path, with warnings as errors.

    Without the dashboard unless an argument names it: drawing takes longer than a small training.
    """
    from hydra._internal.hydra import Hydra

    from handgrad.config.compose import typed
    from handgrad.tasks import cli

    # Hydra composes a configuration only to find no hydra.mode in it; then the flag -m decides.
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: None)
    numbers = count()

    def run(*arguments: str, into: Path | None = None) -> Answer:
        folder = into or tmp_path / "logs" / f"run{next(numbers)}"
        unseen = [] if any("dashboard" in each for each in arguments) else ["dashboard=off"]
        placed = any(each.startswith("hydra.run.dir=") for each in arguments)
        place = [] if placed else [f"hydra.run.dir={typed(folder)}"]
        command = ["train.py", *arguments, *unseen, *place]
        monkeypatch.setattr(sys, "argv", command)
        capfd.readouterr()
        try:
            code = cli.main(CONF)
        except SystemExit as left:
            code = left.code
        assert isinstance(code, int)
        return Answer(code, *capfd.readouterr(), folder)

    return run


@pytest.fixture
def command(tmp_path: Path) -> Train:
    """Run `python train.py ARGUMENTS` as a process of its own, in tmp_path or another folder."""

    def run(*arguments: str, cwd: Path = tmp_path) -> Answer:
        done = subprocess.run(
            [sys.executable, ROOT / "train.py", *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=120,
        )
        newest = cwd / ".latest"
        return Answer(done.returncode, done.stdout, done.stderr, newest)

    return run


def composed(*overrides: str) -> dict[str, Any]:
    """Return the configuration that these overrides give, with "a.b" for what is missing."""
    return deepcopy(composed_once(*overrides))


@cache  # composing takes a tenth of a second
def composed_once(*overrides: str) -> dict[str, Any]:
    """Return a configuration that is not to be changed."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from handgrad.tasks import cli

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides))
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "a.b")
    return cli.plain(config)


def fit(
    *overrides: str, callbacks: list[L.Callback] | None = None, one_by_one: bool = False
) -> Fitted:
    """Train as task=train does, without a file left behind.

    Args:
        overrides: of the configuration.
        callbacks: that watch the training.
        one_by_one: whether each block holds one update alone.
    """
    from handgrad.tasks import build

    config = composed("logger=none", "trainer.enable_progress_bar=false", *overrides)
    data = build.data(config).read()
    network = build.network(config, data)
    trainer = build.trainer(config, Path("none"), extra=callbacks or [])
    data.horizon = (lambda done: 1) if one_by_one else build.horizon(config, trainer)
    trainer.fit(network, datamodule=data)
    return Fitted(network, data, trainer)


def files(folder: Path) -> set[str]:
    """Return the names of all files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
