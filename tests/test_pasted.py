"""What the program advises works when it is pasted into a shell, whatever a folder is called."""

import ast
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

import pytest
from conftest import CONF, ROOT, Train, composed
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from handgrad.config.compose import arguments, typed
from handgrad.config.errors import BadInput
from handgrad.config.refusals import accepted_keys
from handgrad.config.schema import GROUPS
from handgrad.config.validate import validate
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


# Words in the sources

TEXT_KEYS = (
    "ckpt_path",
    "data.path",
    "data.root",
    "data.target",
    "hydra.run.dir",
    "hydra.sweep.dir",
)
WORD = re.compile(r"(?<![\w.*/<])([a-z_]\w*(?:[./]\w+)*)=('[^']*'|[^\s;,()\"'`|]*)")


def messages() -> Iterator[str]:
    """All texts in the sources that are no docstring; a computed part is NUL."""
    for file in (ROOT / "src").rglob("*.py"):
        within: set[ast.AST] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Expr):
                within.add(node.value)
            if node in within:
                continue
            if isinstance(node, ast.JoinedStr):
                within.update(node.values)
                parts = (
                    part.value if isinstance(part, ast.Constant) else "\0" for part in node.values
                )
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def advised() -> Iterator[tuple[str, str]]:
    """Keys and values that a message names after its beginning, which tells what was wrong."""
    for text in messages():
        for quoted in re.findall(r"'([a-z.]+=[^']+)'", text):
            yield quoted.partition("=")[::2]
        for found in WORD.finditer(re.sub("'[^']*=[^']*'", "", text)):
            if found.start() > len("train.py: "):
                yield found[1], found[2].rstrip(".:")


def test_every_key_and_value_that_a_message_advises_is_accepted() -> None:
    keys = {*accepted_keys(), "hydra.run.dir", "hydra.sweep.dir"}
    words = {(key, value) for key, value in advised() if key in keys}
    assert len(words) > 20
    base = composed("data=csv")
    for key, value in words:
        if "\0" in value:  # a text is to be quoted by `arguments`
            assert key not in TEXT_KEYS, f"{key}= before a computed text"
        elif key in GROUPS:
            assert value.isupper() or (CONF / key / f"{value}.yaml").is_file(), f"{key}={value}"
        elif not key.startswith("hydra."):
            (override,) = OverridesParser.create().parse_overrides([f"{key}={value}"])
            config = OmegaConf.create(base)
            OmegaConf.update(config, key, override.value())
            said = ""
            try:
                validate(OmegaConf.to_container(config))  # pyright: ignore[reportArgumentType]
            except BadInput as refusal:  # of its combination with the other values
                said = str(refusal)
            assert not said.startswith(f"{key}={override.value()}: must"), said


def test_an_extra_that_a_message_names_is_one_of_this_project() -> None:
    extras = metadata("handgrad").get_all("Provides-Extra", [])
    named = [shlex.split(each) for text in messages() for each in re.findall("pip install.*", text)]
    assert len(named) >= 3
    for command in named:
        assert command[:3] == ["pip", "install", "-e"]
        assert command[3].removeprefix(".[").removesuffix("]") in extras


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
