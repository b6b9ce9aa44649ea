"""The configuration: every choice composes, and whatever is wrong is one clear line."""

import inspect
import math
import re
import struct
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from conftest import CONF, Train, composed
from omegaconf import OmegaConf

from handgrad.config import refusals, schema
from handgrad.config.errors import BadInput
from handgrad.config.validate import schema_of, validate

CHOICES = [
    (file.parent.name, file.stem)
    for file in sorted(CONF.glob("*/*.yaml"))
    if file.stem != "default" or file.parent.name != "trainer"
]
EXPERIMENTS = sorted(file.stem for file in CONF.glob("experiment/*.yaml"))
DEBUGS = sorted(file.stem for file in CONF.glob("debug/*.yaml"))

each_choice = pytest.mark.parametrize(
    ("group", "choice"), CHOICES, ids=[f"{group}={choice}" for group, choice in CHOICES]
)


@cache
def choice_config(group: str, choice: str) -> dict[str, Any]:
    return composed(f"{group}={choice}")


def leaves(node: Any, prefix: str) -> Iterator[str]:
    """The dotted keys of all values in a node."""
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def schema_leaves(schema: type[schema.Node], prefix: str) -> set[str]:
    """The dotted keys of all values that a schema accepts."""
    keys = set(refusals.keys_of(schema, prefix))
    return {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}


def changed(base: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a configuration with another value for one dotted key; the rest is shared."""
    name, _, below = key.partition(".")
    return {**base, name: changed(base[name], below, value) if below else value}


# Every choice


def test_every_flag_of_lightnings_trainer_is_a_key_or_names_the_key_to_use() -> None:
    flags = set(inspect.signature(L.Trainer).parameters)
    keys = set(choice_config("trainer", "cpu")["trainer"])
    ours = {"timeout"}  # of the devices' process group, which Lightning takes with the strategy
    assert (keys - ours) | refusals.REPLACED.keys() == flags
    assert not keys & refusals.REPLACED.keys()
    assert keys == schema.Trainer.model_fields.keys()


@pytest.mark.parametrize("plus", ["", "+"])
def test_a_flag_that_is_owned_elsewhere_is_refused_with_the_key_to_use(
    train: Train, plus: str
) -> None:
    answer = train(f"{plus}trainer.gradient_clip_val=1")
    assert answer.code == 2
    assert answer.err == f"train.py: {owned('gradient_clip_val')}\n"


@pytest.mark.parametrize("flag", refusals.REPLACED)
def test_every_owned_flag_is_refused_whichever_way_it_came(flag: str) -> None:
    assert refusals.unknown_key(f"trainer.{flag}") == owned(flag)  # Hydra does not know it
    config = deepcopy(choice_config("data", "iris"))
    config["trainer"][flag] = 1  # as +trainer.FLAG or an experiment adds it
    with pytest.raises(BadInput) as refusal:
        validate(config)
    assert str(refusal.value) == owned(flag)


def owned(flag: str) -> str:
    return f"trainer.{flag} is not set here; {refusals.REPLACED[flag]}"


def test_keys_that_the_refusals_recommend_exist() -> None:
    accepted = set(refusals.accepted_keys())
    for text in refusals.REPLACED.values():
        for word in text.replace(",", " ").replace("(", " ").split():
            key = word.partition("=")[0].removesuffix(".*")
            if "." in key and not key.startswith("hydra."):
                assert key in accepted, text


@each_choice
def test_every_choice_composes_and_is_valid(group: str, choice: str) -> None:
    validate(choice_config(group, choice))


@each_choice
def test_keys_of_the_file_and_of_the_schema_are_the_same(group: str, choice: str) -> None:
    if group in ("experiment", "debug"):
        return  # changes of keys of the other groups, which Hydra refuses if they do not exist
    node = choice_config(group, choice)[group]
    schema = schema_of(group, node)
    wanted = schema_leaves(schema, f"{group}.")
    found = set(leaves(node, f"{group}."))
    for other in CHOICES:  # choices that share a class share its schema
        if other[0] == group and schema is schema_of(group, choice_config(*other)[group]):
            found |= set(leaves(choice_config(*other)[group], f"{group}."))
    assert found == wanted


@pytest.mark.parametrize("group", ["data", "optimizer"])
def test_every_choice_has_the_keys_that_its_group_shares(group: str) -> None:
    shared = OmegaConf.load(CONF / f"{group}.yaml").keys()
    for choice in (choice for other, choice in CHOICES if other == group):
        assert shared <= choice_config(group, choice)[group].keys(), choice


@each_choice
def test_nonsense_at_any_key_is_refused_by_the_name_of_the_key(group: str, choice: str) -> None:
    base = choice_config(group, choice)
    for key in leaves(base, ""):
        for nonsense in ({"nonsense": 1}, math.nan, ["nonsense", [1]]):
            with pytest.raises(BadInput) as refusal:
                validate(changed(base, key, nonsense))
            line = str(refusal.value)
            assert key.rpartition(".")[0] in line, line
            assert key in line or key.endswith("_target_"), line
            assert "\n" not in line


@each_choice
def test_a_key_nobody_knows_is_refused_in_every_node(group: str, choice: str) -> None:
    base = choice_config(group, choice)
    nodes = {""} | {key.rpartition(".")[0] for key in leaves(base, "") if "." in key}
    for node in nodes:
        key = f"{node}.zzz" if node else "zzz"
        with pytest.raises(BadInput, match=f"{key} is not a key; accepted: "):
            validate(changed(base, key, 1))


def write_idx(folder: Path) -> None:
    """Four IDX files of the usual names with 24 training and 10 test pictures of 5 by 4 pixels."""
    for prefix, number in (("train", 24), ("t10k", 10)):
        pixels = bytes((7 * i) % 256 for i in range(number * 20))
        labels = bytes(i % 10 for i in range(number))
        images_head = struct.pack(">IIII", 0x803, number, 5, 4)
        labels_head = struct.pack(">II", 0x801, number)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images_head + pixels)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels_head + labels)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs(train: Train, tmp_path: Path, experiment: str) -> None:
    node = composed(f"experiment={experiment}")["data"]
    overrides = []
    if "root" in node:
        write_idx(tmp_path)
        overrides = [f"data.root={tmp_path}", "data.download=false"]
        overrides += ["data.train_examples=10"] if node["train_examples"] else []
    answer = train(f"experiment={experiment}", "debug=one_update", *overrides)
    assert answer.code == 0, answer.err
    assert "1 updates" in answer.out


@pytest.mark.parametrize("debug", DEBUGS)
def test_every_debug_runs(train: Train, debug: str) -> None:
    answer = train("data=iris", "model.hidden=5", f"debug={debug}", "trainer.max_epochs=1")
    assert answer.code == 0, answer.err


# Values

VALUES: list[tuple[str, list[Any], list[Any]]] = [  # key, right values, wrong values
    ("task", ["train"], ["fit", "", None, 1]),
    ("cost", ["cross_entropy", "quadratic"], ["mse", None]),
    ("seed", [0, 1, 2**32 - 1], [-1, 2**32, 0.5, "0", True, None]),
    ("ckpt_path", [None, "best", "a/b.ckpt"], ["", 1, True]),
    ("model.hidden", [1, 64, 10_000], [0, -3, 3.7, "abc", "", None, True, math.nan, math.inf]),
    ("model.init", ["xavier", "zeros"], ["xavir", None]),
    ("model.init_range", [0.5, 1], [0, -1.0, math.nan, math.inf, None]),
    ("model.compile", [True, False], [1, "yes", None]),
    ("data.batch_size", [1, 10, "full"], [0, -1, 2.5, "half", "10", None, True]),
    ("data.microbatch", [None, "auto", 1, 7], [0, -1, 2.5, "full"]),
    ("data.passes_per_epoch", [1, 3], [0, -1, 0.5, None]),
    ("data.scale", ["auto", "none", "standard", "minmax", "/255"], ["max", "255", None, 255]),
    ("data.validation", [0, 0.0, 0.5], [-0.1, 1, 1.0, 2, math.nan, "a"]),
    ("data.test", [0, 0.5], [-0.1, 1.0, math.nan, "a"]),
    (
        "optimizer.lr",
        [1e-30, 1, 1e3],
        [0, 0.0, -1, 1e300, math.nan, math.inf, "", "abc", None, True],
    ),
    ("optimizer.weight_decay", [0, 0.1], [-0.1, math.nan, None]),
    ("optimizer.clip_norm", [None, 1.0], [0, -1, math.nan, math.inf]),
    ("optimizer.accumulate", [1, 4, 1000], [0, -1, 1.5, None]),
    ("scheduler.interval", ["epoch", "step"], ["batch", None]),
    ("scheduler.monitor", [None, "cost/val"], ["val/cost", "cost/test"]),
    ("trainer.accelerator", ["cpu", "gpu", "mps", "auto"], ["tpuu", None]),
    ("trainer.devices", [1, 2, 3, "auto"], [0, -1, "a", 1.5, [], [-1], [0]]),
    ("trainer.num_nodes", [1], [0, -1, 1.5]),
    (
        "trainer.precision",
        ["32-true", "64-true", "bf16-true", "bf16-mixed"],
        ["fp8", "16-mixed", 32],
    ),
    ("trainer.max_epochs", [1, 30], [0, -5, -1, "3", 2.5, None]),
    ("trainer.min_epochs", [None, 1], [0, -1]),
    ("trainer.max_steps", [-1, 1, 10], [0, -2, 1.5, None]),
    ("trainer.max_time", [None, "01:00:00:00"], [5, "abc", "1 hour", "", "99999999999:00:00:00"]),
    ("trainer.fast_dev_run", [True, False, 3], [0, -1, "yes"]),
    ("trainer.limit_train_batches", [None, 1, 5, 0.5, 1.0], [0, 0.0, -1, 1.5, math.nan]),
    ("trainer.limit_val_batches", [None, 0, 0.5, 3], [-1, 1.5, math.nan]),
    ("trainer.val_check_interval", [None, 10], [0, -1]),
    ("trainer.check_val_every_n_epoch", [1, 5], [0, -1, None]),
    ("trainer.num_sanity_val_steps", [0, 2], [-1, None]),
    ("trainer.log_every_n_steps", [1, 50], [0, -1, None]),
    ("trainer.deterministic", [None, True, "warn"], ["yes"]),
    ("trainer.profiler", [None, "simple"], ["pytorchh"]),
    ("callbacks.checkpoint.monitor", ["accuracy/val", "cost/val"], ["val_acc", None]),
    ("callbacks.checkpoint.mode", ["max", "min"], ["up", None]),
    ("callbacks.checkpoint.every_n_updates", [None, 1], [0, -1]),
    ("callbacks.early_stopping.monitor", ["cost/train"], ["loss"]),
    ("callbacks.early_stopping.patience", [None, 1], [0, -1, 1.5]),
    ("callbacks.early_stopping.min_delta", [0, 0.1], [-0.1, math.nan]),
]


@pytest.mark.parametrize(("key", "right", "wrong"), VALUES, ids=[key for key, *_ in VALUES])
def test_right_values_are_taken_and_wrong_ones_refused(
    key: str, right: list[Any], wrong: list[Any]
) -> None:
    base = choice_config("data", "iris")
    for value in right:
        validate(changed(base, key, value))
    for value in wrong:
        with pytest.raises(BadInput) as refusal:
            validate(changed(base, key, value))
        assert re.fullmatch(rf"{re.escape(key)}\b.*", str(refusal.value)), value  # one line


COMBINATIONS = [
    (["trainer.max_epochs=-1"], ["trainer.max_epochs=-1", "trainer.max_steps=9"]),
    (
        ["trainer.val_check_interval=9", "trainer.check_val_every_n_epoch=2"],
        ["trainer.val_check_interval=9"],
    ),
    (["optimizer=nesterov", "optimizer.momentum=0"], ["optimizer=nesterov"]),
    (["scheduler=plateau", "data.validation=0"], ["scheduler=plateau"]),
    (["scheduler=plateau", "trainer.limit_val_batches=0"], ["scheduler=plateau"]),
    (["scheduler.interval=validation"], ["scheduler.interval=epoch"]),
    (
        ["data.validation=0.5", "data.test=0.5"],
        ["data.validation=0.5", "data.test=0.4"],
    ),
]


@pytest.mark.parametrize(
    ("wrong", "right"), COMBINATIONS, ids=[" ".join(w) for w, _ in COMBINATIONS]
)
def test_values_that_do_not_fit_together_are_refused(wrong: list[str], right: list[str]) -> None:
    validate(composed(*right))
    with pytest.raises(BadInput) as refusal:
        validate(composed(*wrong))
    assert wrong[0].partition("=")[0] in str(refusal.value)


# A user's own experiment


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model:\n  hiden: 3\n", ["model.hiden", "model.hidden"]),
        ("modl:\n  hidden: 3\n", ["modl", "model"]),
        ("optimizer:\n  lr: -1\n", ["optimizer.lr=-1"]),
        (
            "trainer:\n  gradient_clip_val: 1\n",
            ["trainer.gradient_clip_val", "optimizer.clip_norm"],
        ),
        ("defaults:\n  - override /data: digts\n", ["data=digts", "digits"]),
        ("model:\n\thidden: 3\n", ["mine.yaml, line 3: ", "spaces"]),
        ("model: {hidden: 3\n", ["mine.yaml, line 3: ", "expected ',' or '}'"]),
        ("model:\n  hidden: 3\n  hidden: 4\n", ["mine.yaml, line 4: ", "duplicate key hidden"]),
        ("model:\n  hidden: ${nope\n", ["mine.yaml: model.hidden: "]),
        ("model.hidden: 3\n", ["mine.yaml: model.hidden", "model: {hidden: VALUE}"]),
        ("- model\n", ["mine.yaml: ", "KEY: VALUE"]),
        ("3: 4\n", ["3 is not a key"]),
        ("data: iris\n", ["mine.yaml: data", "- override /data: iris"]),
        ("defaults:\n  - data: iris\n", ["mine.yaml: data", "- override /data: iris"]),
        ("defaults:\n  - /data: iris\n", ["mine.yaml: data", "- override /data: iris"]),
        ("defaults:\n  - override data: iris\n", ["mine.yaml: ", "- override /data: iris"]),
        ("defaults:\n  override /data: iris\n", ["mine.yaml: ", "must be a list"]),
        ("# gr\xf6\xdfer\n", ["mine.yaml is not valid UTF-8 (byte 0xf6)"]),
    ],
)
def test_a_typo_in_ones_own_experiment_is_one_clear_line(
    train: Train, tmp_path: Path, text: str, named: list[str]
) -> None:
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_bytes(f"# @package _global_\n{text}".encode("latin-1"))
    answer = train("--config-dir", "own", "experiment=mine")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert all(name in answer.err for name in named), answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


@pytest.mark.parametrize(
    ("start", "named"),
    [
        ("", "its first line must be: # @package _global_"),
        ("# What do 3 units bring?\n# @package _global_\n", "its first line must be: # @package"),
        ("# @package global\n", "its first line must be: # @package _global_"),
        ("\ufeff# @package _global_\n", "begins with a byte order mark"),
    ],
)
def test_an_experiment_that_would_not_reach_the_whole_configuration_is_named(
    train: Train, tmp_path: Path, start: str, named: str
) -> None:
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(f"{start}model:\n  hidden: 3\n", encoding="utf-8")
    answer = train("--config-dir", "own", "experiment=mine")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert f"{own / 'mine.yaml'}" in answer.err
    assert named in answer.err
