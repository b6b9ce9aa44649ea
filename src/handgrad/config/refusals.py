"""Refusals: one clear line on a word, key, value or experiment that is not accepted."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from handgrad.config.compose import arguments
from handgrad.config.errors import BadInput
from handgrad.config.schema import BY_TARGET, FIXED, GROUPS, Main

REPLACED = {  # flags of Lightning's Trainer, and what to do instead
    "callbacks": "use callbacks.checkpoint.* or callbacks.early_stopping.*",
    "logger": "use logger=tensorboard, csv or none",
    "default_root_dir": "use hydra.run.dir=FOLDER",
    "use_distributed_sampler": "use data.batch_size, which is divided among the devices",
    "gradient_clip_val": "use optimizer.clip_norm",
    "gradient_clip_algorithm": "use optimizer.clip_norm, which clips by the norm",
    "accumulate_grad_batches": "use optimizer.accumulate",
    "overfit_batches": "use trainer.limit_train_batches (or debug=overfit)",
    "enable_checkpointing": "use callbacks.checkpoint.*",
    "sync_batchnorm": "it is not needed: the network has no batch normalisation",
    "detect_anomaly": "use task=check: training runs without autograd",
    "reload_dataloaders_every_n_epochs": "it is not needed: every pass shuffles the examples again",
    "strategy": "use trainer.devices, above 1 for several processes with equal weights",
    "plugins": "use trainer.precision or trainer.accelerator",
    "barebones": "use logger=none trainer.enable_progress_bar=false",
    "enable_autolog_hparams": "use logger=none",
    "model_registry": "use task=export",
}
MEANT = {  # names that other programs give to a key, and the key here
    **dict.fromkeys(("epochs", "n_epochs", "num_epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("steps", "iterations", "updates"), "trainer.max_steps"),
    **dict.fromkeys(("learning_rate", "rate", "alpha", "eta"), "optimizer.lr"),
    **dict.fromkeys(("batch", "bs"), "data.batch_size"),
    **dict.fromkeys(("units", "hidden_size", "hidden_units"), "model.hidden"),
    **dict.fromkeys(("gpus", "num_devices"), "trainer.devices"),
    **dict.fromkeys(("checkpoint", "resume"), "ckpt_path"),
    **dict.fromkeys(("output", "output_dir", "out"), "hydra.run.dir"),
    **{"loss": "cost", "l2": "optimizer.weight_decay", "device": "trainer.accelerator"},
}
_CHOSEN = (*FIXED, *BY_TARGET)  # groups of which an experiment may choose a file
REMOVABLE = ("hydra", "logger.", "tune.space.")  # what `~` may remove
OWN_FILES = {".csv": "csv", ".parquet": "parquet", ".npz": "npz", ".npy": "npz"}


def check_words(overrides: list[str], conf: Path) -> None:
    """Refuse words that set no key, and signs before a key that do not do what they seem to.

    Args:
        overrides: as typed.
        conf: the folder of config.yaml.

    Raises:
        BadInput: one line that says what to write.
    """
    for override in overrides:
        key, equals, value = override.partition("=")
        name = key.lstrip("+~")
        if name in GROUPS and name != key:
            right = arguments({name: value}) if value else f"{name}=CHOICE"
            raise BadInput(f"{override}: a group has exactly one choice; write {right}")
        if key.startswith("~") and name in accepted_keys() and not name.startswith(REMOVABLE):
            raise BadInput(f"{override}: a key cannot be removed; give it a value: {name}=VALUE")
        if not name or (not equals and name == key):
            raise BadInput(
                f"{override} is not KEY=VALUE; {_instead_of_word(key.rstrip(':'), conf)}"
            )


def _instead_of_word(word: str, conf: Path) -> str:
    """Return what to write in place of a word without a key."""
    choices = sorted((file.parent.name, file.stem) for file in conf.glob("*/*.yaml"))
    found = ["task=" + word] if word in get_args(Main.model_fields["task"].annotation) else []
    found += [
        f"{group}={choice}" for group, choice in choices if word in (choice, f"{group}/{choice}")
    ]
    found = found or own_file(word) or [f"{key}=VALUE" for key in meant(word)]
    return f"write {' or '.join(found)}" if found else "for keys and choices, see --help"


def own_file(name: str) -> list[str]:
    """Return the words that read a file of the user's, or none where its name is of no data."""
    kind = OWN_FILES.get(Path(name).suffix)
    return [f"data={kind} {arguments({'data.path': name})}"] if kind else []


def check_experiment(title: str, content: Any, package: str | None) -> None:
    """Refuse an experiment that Hydra would read as something other than its author means.

    Args:
        title: its file.
        content: in plain containers.
        package: what its first line names.

    Raises:
        BadInput: one line that says what to write.
    """
    if package != "_global_":
        raise BadInput(f"{title}: its first line must be: # @package _global_")
    if not isinstance(content, dict):
        raise BadInput(f"{title}: must contain lines of the form KEY: VALUE")
    for key in content:
        if "." in str(key):
            outer, _, inner = str(key).partition("=")[0].partition(".")
            raise BadInput(f"{title}: {key} is not a key; write {outer}: {{{inner}: VALUE}}")
    chosen = {key: content[key] for key in content.keys() & set(_CHOSEN)}
    for entry in content.get("defaults") or []:
        for key, value in entry.items() if isinstance(entry, dict) else ():
            group = str(key).removeprefix("override ").lstrip("/")
            if group in _CHOSEN and key != f"override /{group}":
                chosen[group] = value
    for key, value in chosen.items():
        if not isinstance(value, dict):
            line = f"- override /{key}: {value or 'CHOICE'}"
            raise BadInput(
                f"{title}: {key}: to choose a file, write in the list of defaults: {line}"
            )


def explain(error: ValidationError, prefix: str) -> str:
    """Return a validation error as one line, with what any member of a union accepts."""
    first, *others = error.errors()
    path = [str(part) for part in first["loc"]]
    if not path:  # a key that is not a string
        return f"{prefix.removesuffix('.')}={first['input']!r}: {first['msg']}"
    key = prefix + path[0]
    if first["type"] == "extra_forbidden":
        return unknown_key(prefix + ".".join(path))
    if first["type"] == "missing":
        return f"{prefix}{'.'.join(path)} is missing: it requires a value"
    if item := isinstance(first["loc"][-1], int):
        path.pop()  # the list is the key
    same = [first, *(o for o in others if o["loc"][:1] == first["loc"][:1] and not item)]
    nested = isinstance(first["input"], dict) or (len(path) > 1 and len(same) == 1)
    if nested and "[" not in path[-1]:
        key = prefix + ".".join(path)
    return f"{key}={first['input']}: {', or '.join(dict.fromkeys(map(requirement, same)))}"


def requirement(error: ErrorDetails) -> str:
    """Return what a validation error says is accepted, in the words of the other refusals."""
    if error["type"] in ("model_type", "dict_type"):
        return "must be a group of keys"
    text = re.sub(r"^\w+ should ", "must ", error["msg"])
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        accepted = re.findall("'([^']+)'", text)
        text += did_you_mean(difflib.get_close_matches(error["input"], accepted, n=1))
    return text[0].lower() + text[1:]


def did_you_mean(names: list[str]) -> str:
    """Return a question that ends a refusal, or nothing without a name."""
    *others, last = names or [""]
    return f"; did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if names else ""


def accepted_keys() -> Iterator[str]:
    """Yield every key that some choice of the groups accepts."""
    yield from Main.model_fields
    yield from GROUPS
    schemas = list(FIXED.items())
    schemas += [(name, schema) for name, by in BY_TARGET.items() for schema in by.values()]
    for group, schema in schemas:
        yield from keys_of(schema, f"{group}.")


def keys_of(schema: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the keys of a schema and of the schemas within it."""
    for name, field in schema.model_fields.items():
        for annotation in (field.annotation, *get_args(field.annotation)):
            if isinstance(annotation, type(BaseModel)):
                yield from keys_of(annotation, f"{prefix}{name}.")
        yield f"{prefix}{field.alias or name}"


def unknown_key(key: str) -> str:
    """Return one line on a key that does not exist, with the key to use instead."""
    group, _, flag = key.partition(".")
    if group == "trainer" and flag in REPLACED:
        return f"{key} is not set here; {REPLACED[flag]}"
    if key in accepted_keys():
        return f"{key} does not exist for this choice of {group}"
    if names := meant(key):
        return f"{key} is not a key{did_you_mean(names)}"
    choices = _below(key.rpartition(".")[0]) or _below("")
    return f"{key} is not a key; accepted: {', '.join(choices)}"


def meant(key: str) -> list[str]:
    """Return the keys that somebody probably means who writes this one; itself, if it exists."""
    accepted = list(dict.fromkeys(accepted_keys()))
    parent, _, name = key.rpartition(".")
    if key in accepted or name in MEANT:
        return [key if key in accepted else MEANT[name]]
    if siblings := _below(parent):
        near = difflib.get_close_matches(name, siblings, n=1)
        beside = [f"{parent}.{each}".lstrip(".") for each in near]
    else:
        beside = difflib.get_close_matches(key, accepted, n=1, cutoff=0.75)
    return [each for each in accepted if each.rpartition(".")[2] == name] or beside


def _below(parent: str) -> list[str]:
    """Return the accepted keys below one, without it."""
    keys = (each.rpartition(".") for each in dict.fromkeys(accepted_keys()))
    return [name for above, _, name in keys if above == parent]
