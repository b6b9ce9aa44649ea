"""What the program advises works when it is pasted into a shell, whatever a folder is called."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import Train
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from handgrad.config.compose import arguments, typed
from handgrad.devices import signals

ODD = 'it\'s a=b, "größer" # $HOME'  # a folder's name that a shell and Hydra both misread
TEXTS = st.text(st.sampled_from("ab1 '\"=,\\${}[]():~#ü.-_/;&|*?!"), max_size=12)


def pasted(words: str) -> dict[str, object]:
    """What Hydra reads from words that were pasted into a shell, by key."""
    read = OmegaConf.create({})
    for override in OverridesParser.create().parse_overrides(shlex.split(words)):
        OmegaConf.update(read, override.get_key_element(), override.value())
    return {key: OmegaConf.select(read, key) for key in map(str, flat(read))}


def flat(node: object, prefix: str = "") -> list[str]:
    """The dotted keys of all values in a node."""
    if not OmegaConf.is_config(node):
        return [prefix]
    return [
        key for name in node for key in flat(node[name], f"{prefix}.{name}" if prefix else name)
    ]  # pyright: ignore


# A word


@given(st.one_of(TEXTS, st.text("nulTRUEfase0123.-+_iNF", max_size=5)))
def test_a_text_that_is_pasted_is_that_text(text: str) -> None:
    assert pasted(arguments({"hydra.run.dir": text, "ckpt_path": text})) == {
        "hydra.run.dir": text,
        "ckpt_path": text,
    }


@pytest.mark.parametrize("value", [None, True, False, 3, -1, 0.5, 1e-30])
def test_a_value_that_is_pasted_is_that_value(value: object) -> None:
    assert pasted(arguments({"key": value})) == {"key": value}


def test_a_usual_value_is_typed_without_quotes() -> None:
    for text in ("logs/2026-11-28_08-27-08_digits_12", "../a/b.csv", "iris", "accuracy/val"):
        assert arguments({"key": text}) == f"key={text}"


# The way to continue

STOPPING = """
from pathlib import Path
from handgrad.backprop import backward
from handgrad.devices import signals

def rule(params, activations, X, Y):
    if Path("stop").exists():
        Path("stop").unlink()
        signals.STATE.received = 2  # as Ctrl-C does
    return backward(params, activations, X, Y)
"""
SHORT = (
    *("backward=custom", "backward.function=stopping.rule", "check.at_start=false"),
    *("trainer.max_epochs=2", "trainer.enable_progress_bar=false", "dashboard=off", "logger=none"),
)
COMMANDS = {
    "run": ("data=iris",),
    "sweep": ("-m", "data=iris", "seed=1,2"),
    "search": ("task=tune", "data=iris", "tune.trials=2", "tune.space={seed: {low: 1, high: 9}}"),
    "replay": ("task=replay", "experiment=sklearn_iris", "replay.seeds=2"),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_way_to_continue_after_an_interrupt_works_as_printed(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    command, folder = (*COMMANDS[kind], *SHORT), tmp_path / ODD
    key = f"hydra.{'sweep' if kind == 'sweep' else 'run'}.dir"
    (tmp_path / "stopping.py").write_text(STOPPING)
    (tmp_path / "stop").touch()
    monkeypatch.setattr(signals, "STATE", type(signals.STATE)())
    stopped = train(*command, f"{key}={typed(folder)}")
    monkeypatch.setattr(signals, "STATE", type(signals.STATE)())  # as in another process
    assert stopped.code == 130, stopped.err
    (way,) = re.findall("continue with the same command and (.*)\n", stopped.err)
    assert pasted(way)[key] == str(folder)
    assert len(list(folder.rglob("last.ckpt"))) == 1
    again = train(*command, *shlex.split(way))
    assert again.code == 0, again.err
    assert len(list(folder.rglob("metrics.json"))) == (1 if kind == "run" else 2)
    if kind == "run":
        assert "resuming" in again.out
