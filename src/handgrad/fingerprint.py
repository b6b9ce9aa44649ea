"""What a training is made of, so that a checkpoint is continued by the same training alone."""

import hashlib
from typing import Any

import numpy as np

from handgrad.data.module import ExampleData

GROUPS = ("model", "backward", "optimizer", "scheduler")  # every key of these
KEYS = ("cost", "seed", "reproducible", "on_nonfinite")
DATA_KEYS = ("batch_size", "microbatch", "passes_per_epoch")
TRAINER_KEYS = ("precision", "limit_train_batches", "val_check_interval", "check_val_every_n_epoch")
FREE = ("optimizer.lr",)  # may be changed by who continues a training
HASHED_BYTES = 2**25  # of a large array, in rows evenly spread


def fingerprint(config: dict[str, Any], data: ExampleData) -> dict[str, Any]:
    """The keys that decide what a training computes, and a digest of its data.

    Args:
        config: validated.
        data: read.

    Returns:
        Values by key, in plain containers.
    """
    values = {key: config[key] for key in KEYS}
    for group, names in (
        *((group, list(config[group])) for group in GROUPS),
        ("data", DATA_KEYS),
        ("trainer", TRAINER_KEYS),
    ):
        values |= {f"{group}.{name}": config[group][name] for name in names}
    values["data"] = content(data)
    return {key: value for key, value in values.items() if key not in FREE}


def differences(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, each with both values; None stands for a key that is not there."""
    return [
        f"{key}={was.get(key)}, now {now.get(key)}"
        for key in dict.fromkeys((*was, *now))
        if was.get(key) != now.get(key)
    ]


def content(data: ExampleData) -> str:
    """The data as they are trained on: their size, and a digest of values, split and scaling."""
    examples, digest = data.examples, hashlib.sha256()
    arrays = [examples.X, examples.target, *(data.indices[part] for part in sorted(data.indices))]
    for array in arrays:
        if array is not None:
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(spread(array)).tobytes())
    digest.update(repr(data.scaling.state() if data.scaling else None).encode())
    rows, features = len(data.indices["train"]), examples.X.shape[1]
    return (
        f"{rows} of {len(examples)} examples, {features} features, digest {digest.hexdigest()[:12]}"
    )


def spread(array: np.ndarray) -> np.ndarray:
    """The array, or evenly spread rows of one that is too large to be read at every start."""
    return array[:: max(1, -(-array.nbytes // HASHED_BYTES))]
