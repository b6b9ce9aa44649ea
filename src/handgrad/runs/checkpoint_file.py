"""Checkpoint files: whole or not at all, every byte checked, nothing in them executed.

Lightning writes to TMPDIR and moves the file from there, which tears it where TMPDIR is on another
file system, and loads a flipped bit as a weight. Here a file is written beside its place, brought
to the disk, read back, and renamed; a seal at its end tells whether any byte changed since.
"""

import errno
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor
from typing_extensions import override

from handgrad.config.errors import BadInput, Failed, in_bytes

PLAIN = (Tensor, str, int, float, bool, type(None))
SEAL = re.compile(rb"sealed by handgrad: [0-9a-f]{64}")  # the comment of the zip archive
SEAL_BYTES = 84


class Damaged(BadInput):
    """A checkpoint file cannot be used.

    Args:
        path: of the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def write(checkpoint: Mapping[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write a checkpoint so that a file of this name is whole at every moment.

    Args:
        checkpoint: of plain containers.
        path: of the file; one that is there is replaced.
        previous: where the one that is there is kept.

    Raises:
        TypeError: if it holds what could not be loaded without running code.
        Failed: if it cannot be written; the earlier file is as it was.
    """
    check_plain(checkpoint, "checkpoint")
    content = sealed(checkpoint)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if temporary.read_bytes() != content:
            raise OSError(errno.EIO, "it reads back with other bytes")
        if previous is not None and path.exists():
            keep(path, previous)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise Failed(
            f"{path} cannot be written ({error.strerror or error}; it needs "
            f"{in_bytes(len(content))}); an earlier one is as it was"
        ) from error


def check_plain(value: Any, name: str) -> None:
    """Refuse what is not a tensor, a string, a number, or a dict, list or tuple of such.

    Raises:
        TypeError: with its place.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            check_plain(key, f"a key of {name}")
            check_plain(each, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            check_plain(each, f"{name}.{number}")
    elif not isinstance(value, PLAIN):
        raise TypeError(f"{name} is a {type(value).__name__}, which no checkpoint may hold")


def sealed(checkpoint: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint's file: a zip archive whose comment seals all before it."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    content = bytearray(buffer.getvalue())
    content[-2:] = SEAL_BYTES.to_bytes(2, "little")  # the length of the comment, 0 until now
    return bytes(content) + seal(content)


def seal(content: bytes | bytearray | memoryview) -> bytes:
    """The seal of some bytes."""
    return b"sealed by handgrad: " + hashlib.sha256(content).hexdigest().encode()


def keep(path: Path, previous: Path) -> None:
    """Let `previous` be the file of `path` too, so that there is never none."""
    temporary = previous.with_name(f".{previous.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
        os.replace(temporary, previous)
        temporary.unlink(missing_ok=True)  # it stays where `previous` was the same file already
    except OSError:  # a file system without links
        os.replace(path, previous)


def sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> dict[str, Any]:
    """What a checkpoint's file holds, on the CPU; nothing in it is executed.

    Raises:
        Damaged: if any byte of it changed, or it never was a checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(path, f"cannot be read ({error.strerror})") from None
    if reason := damage(content):
        raise Damaged(path, reason)
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whose advice, to load it all the same, is not repeated
        raise Damaged(path, "holds more than numbers and text: refused unexecuted") from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise Damaged(path, "not a checkpoint of handgrad")
    return checkpoint


def damage(content: bytes) -> str:
    """What is wrong with a file's bytes; empty where nothing is.

    A file without a seal, of another program, is held to the checksums of its archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            comment, broken = archive.comment, archive.testzip()
    except Exception:  # reading arbitrary bytes as an archive may raise anything
        return "damaged or not a checkpoint"
    if broken is not None:
        return f"damaged: {broken} fails its checksum"
    if comment and (
        not SEAL.fullmatch(comment) or seal(memoryview(content)[:-SEAL_BYTES]) != comment
    ):
        return "damaged: its bytes are not those that were written"
    return ""


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning's Trainer writes and reads checkpoints."""

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Path | None = None
    ) -> None:
        """Write a checkpoint; `storage_options` is where the one that is there is kept."""
        write(checkpoint, Path(path), storage_options)

    @override
    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, whatever is asked for, as plain containers."""
        return read(Path(path))
