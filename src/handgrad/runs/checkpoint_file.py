"""Checkpoint files: written whole or not at all, checked to the last byte, and never executed.

Lightning writes to TMPDIR and moves the file from there, which tears it where TMPDIR is on another
file system, and it loads a flipped bit as a weight. Here a file is written beside its place,
brought to the disk and renamed. A seal at its end shows whether any byte has changed since.
"""

import hashlib
import io
import math
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor
from typing_extensions import override

from handgrad.config.compose import with_present_names
from handgrad.config.errors import BadInput, Failed, in_bytes
from handgrad.data.checks import available_memory

PLAIN = (Tensor, str, int, float, bool, type(None))
SEAL_BYTES = 84  # of the seal, which is the comment of the zip archive
BETWEEN_PARTS = 4096  # bytes of the archive at most beside each part: names, and alignment
DEEPEST = 24  # containers within one another
LARGEST_INTEGER = 2**63


class Damaged(BadInput):
    """A checkpoint file that cannot be used.

    Args:
        path: of the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def write(checkpoint: Mapping[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write a checkpoint so that the file of this name is whole at every moment.

    Args:
        checkpoint: of plain containers.
        path: of the file; an existing one is replaced.
        previous: where the existing one is kept.

    Raises:
        TypeError: if it contains what could not be loaded without running code.
        FileNotFoundError: if its folder was removed.
        Failed: if it cannot be written; the earlier file is then unchanged.
    """
    _check_plain(checkpoint)
    content = _sealed(checkpoint)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            keep(path, previous)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not path.parent.exists():
            raise
        raise Failed(
            f"{path} cannot be written ({error.strerror or error}; it needs "
            f"{in_bytes(len(content))}); an earlier one is unchanged"
        ) from error


def _check_plain(checkpoint: Mapping[str, Any], most: float = math.inf) -> None:
    """Refuse anything but tensors, strings, numbers, and dicts, lists and tuples of them.

    Args:
        checkpoint: written by this program, or by anybody.
        most: values that it may have. A container that occurs often counts each time: a small file
            can hold one that unfolds to billions of values, or contains itself.

    Raises:
        TypeError: with the place of the value.
    """
    left: list[tuple[str, int, Any]] = [("checkpoint", 0, checkpoint)]
    while left:
        name, depth, value = left.pop()
        most -= 1
        if most < 0 or depth > DEEPEST:
            raise TypeError("the checkpoint is nested without end")
        if isinstance(value, Mapping):
            for key, each in value.items():
                if not isinstance(key, str | int):
                    raise TypeError(f"a key of {name} is a {type(key).__name__}, not a string")
                left.append((f"{name}.{key}", depth + 1, each))
        elif isinstance(value, list | tuple):
            left += [(f"{name}.{number}", depth + 1, each) for number, each in enumerate(value)]
        elif not isinstance(value, PLAIN):
            kind = type(value).__name__
            raise TypeError(f"{name} is a {kind}, which a checkpoint must not contain")
        elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise TypeError(f"{name} is an integer of more than 64 bits")


def _sealed(checkpoint: Mapping[str, Any]) -> bytes:
    """Return the bytes of a checkpoint's file: a zip archive whose comment seals all before it."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    content = bytearray(buffer.getvalue())
    content[-2:] = SEAL_BYTES.to_bytes(2, "little")  # the length of the comment, 0 until now
    return bytes(content) + _seal(content)


def _seal(content: bytes | bytearray | memoryview) -> bytes:
    """Return the seal of some bytes, made of their SHA-256."""
    return b"sealed by handgrad: " + hashlib.sha256(content).hexdigest().encode()


def keep(path: Path, previous: Path) -> None:
    """Make `previous` a second name of the file at `path`, so that one always exists."""
    temporary = previous.with_name(f".{previous.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
        os.replace(temporary, previous)
        temporary.unlink(missing_ok=True)  # it stays where `previous` was the same file already
    except OSError:  # a file system without links
        os.replace(path, previous)


def _sync(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, *, checked: bool = True) -> dict[str, Any]:
    """Return what a checkpoint's file contains, on the CPU, without executing any of it.

    Args:
        path: of the file.
        checked: whether every byte is checked, as training and evaluation require.

    Raises:
        Damaged: if any byte of it has changed, or it never was a checkpoint.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            reason = _misfit(file, size)
            content = b"" if reason else file.read()
    except OSError as error:
        raise Damaged(path, f"cannot be read ({error.strerror})") from None
    if reason := reason or (_change(content) if checked else ""):
        raise Damaged(path, reason)
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # PyTorch's advice, to load it without this check, is not repeated
        raise Damaged(path, "contains more than numbers and text; none of it is executed") from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise Damaged(path, "not a checkpoint of handgrad")
    try:
        _check_plain(checkpoint, most=size)
    except TypeError as error:
        raise Damaged(path, f"not a checkpoint of handgrad: {error}") from None
    for key in ("config", "fingerprint"):  # which name the classes of the time of writing
        if key in checkpoint:
            checkpoint[key] = with_present_names(checkpoint[key])
    return checkpoint


def _misfit(file: BinaryIO, size: int) -> str:
    """Return why a file is not one that PyTorch writes, or is too large, before it is read.

    The parts of its archive are not compressed, and fill it but for their names.
    """
    memory = available_memory()
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except Exception:  # reading arbitrary bytes as an archive may raise anything
        return "damaged or not a checkpoint"
    file.seek(0)
    stored = sum(each.file_size for each in parts)
    compressed = any(each.compress_type != zipfile.ZIP_STORED for each in parts)
    if compressed or not stored <= size <= stored + BETWEEN_PARTS * (len(parts) + 1):
        return f"not a checkpoint: its parts take {in_bytes(stored)}, the file {in_bytes(size)}"
    if memory is not None and size > memory / 2:
        return f"takes {in_bytes(size)}, and {in_bytes(memory)} of memory are free"
    return ""


def _change(content: bytes) -> str:
    """Return what has changed in a file's bytes since they were written, which is empty for none.

    A file without a seal, of another program, is checked against the checksums of its archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            comment, broken = archive.comment, archive.testzip()
    except Exception:  # likewise
        return "damaged or not a checkpoint"
    if broken is not None:
        return f"damaged: {broken} does not match its checksum"
    if comment and _seal(memoryview(content)[:-SEAL_BYTES]) != comment:
        return "damaged: its bytes are not those that were written"
    return ""


class CheckpointFiles(TorchCheckpointIO):
    """Writes and reads checkpoints for Lightning's Trainer."""

    def __init__(self) -> None:
        self._known: tuple[Path, dict[str, Any]] | None = None

    def hand_on(self, path: Path, checkpoint: dict[str, Any]) -> None:
        """Keep what was read of a file already, for the first time that it is asked for."""
        self._known = path, checkpoint

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Path | None = None
    ) -> None:
        """Write a checkpoint, and keep an existing one where `storage_options` says."""
        write(checkpoint, Path(path), storage_options)

    @override
    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return a checkpoint as plain containers, whatever the arguments ask for."""
        known, self._known = self._known, None
        return known[1] if known and known[0] == Path(path) else read(Path(path))
