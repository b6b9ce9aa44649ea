"""Refusals: one clear line on a key that does not exist, or on a value that is not accepted."""

import difflib
import re
from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from handgrad.config.schema import BY_TARGET, FIXED, GROUPS, Main

REPLACED = {  # flags of Lightning's Trainer, and the key to use instead
    "callbacks": "callbacks.checkpoint.* or callbacks.early_stopping.*",
    "logger": "logger=tensorboard, csv or none",
    "default_root_dir": "hydra.run.dir=FOLDER",
    "use_distributed_sampler": "data.batch_size, which is divided among the devices",
    "gradient_clip_val": "optimizer.clip_norm",
    "gradient_clip_algorithm": "optimizer.clip_norm, which clips by the norm",
    "accumulate_grad_batches": "optimizer.accumulate",
    "overfit_batches": "trainer.limit_train_batches (or debug=overfit)",
    "enable_checkpointing": "callbacks.checkpoint.*",
    "sync_batchnorm": "nothing: the network has no batch normalisation",
    "detect_anomaly": "task=check: training runs without autograd",
    "reload_dataloaders_every_n_epochs": "nothing: the examples are shuffled again in every pass",
    "strategy": "trainer.devices, above 1 for several processes with equal weights",
    "plugins": "trainer.precision or trainer.accelerator",
    "barebones": "logger=none trainer.enable_progress_bar=false",
    "enable_autolog_hparams": "logger=none",
    "model_registry": "task=export",
}


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
        return f"{prefix}{'.'.join(path)} is missing"
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
    return text[0].lower() + text[1:]


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
        return f"{key} is not set here; use {REPLACED[flag]}"
    accepted = list(dict.fromkeys(accepted_keys()))
    if key in accepted:
        return f"{key} does not exist for this choice of {group}"
    parent, _, name = key.rpartition(".")
    siblings = [each.rpartition(".")[2] for each in accepted if each.rpartition(".")[0] == parent]
    if near := difflib.get_close_matches(name, siblings, n=1):
        return f"{key} is not a key; did you mean {key.removesuffix(name)}{near[0]}?"
    if not siblings and (near := difflib.get_close_matches(key, accepted, n=1, cutoff=0.75)):
        return f"{key} is not a key; did you mean {near[0]}?"
    choices = siblings or [each for each in accepted if "." not in each]
    return f"{key} is not a key; accepted: {', '.join(choices)}"
