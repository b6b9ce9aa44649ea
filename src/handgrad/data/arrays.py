"""Arrays of the user: one .npz file, or a pair of .npy files, the features left in theirs."""

import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from handgrad.data.checks import (
    check_features,
    existing_file,
    first_line,
    refuse_larger_than_memory,
)
from handgrad.data.examples import (
    Examples,
    Known,
    Source,
    listed,
    numbered,
    pixel_names,
)
from handgrad.data.on_disk import Features, OnDisk
from handgrad.data.targets import Labels, class_labels, output_labels


class Arrays(Source):
    """Features (N, n_x) or pictures (N, rows, columns), and a target (N,) or (N, n_y).

    A target with one column holds classes: texts, whole numbers or booleans. One with several
    columns is multi-label, each in [0, 1]. No pickled object is ever loaded.

    Args:
        path: an .npz file with both arrays, or the .npy file of the features.
        features: the name of the features in the .npz file.
        target: the name of the target in the .npz file (None: y), or the .npy file of the target.
    """

    def __init__(
        self, *, path: str | Path | None, features: str = "X", target: str | Path | None = None
    ) -> None:
        self.path, self.features, self.target = path, features, target

    def read(self, known: Known | None = None, *, target_required: bool = True) -> Examples:
        """See Source.read."""
        file = existing_file(self.path)
        read = self._pair if file.suffix == ".npy" else self._archive
        features, labels = read(file, target_required)
        for array in (features, labels):
            if array is not None and array.dtype == np.longdouble != np.float64:
                raise ValueError(f"{file} contains numbers of type {array.dtype}; save float64")
        features, names, image_shape = _features(features, str(file), known)
        check_features(features, names, str(file), numbered, warn=known is None)
        target, multi_label = None, known.multi_label if known else False
        class_names = known.class_names if known else ()
        if labels is not None:
            (target, class_names), multi_label = _labels(labels, len(features), str(file), known)
        return Examples(
            X=features,
            target=target,
            class_names=class_names,
            feature_names=names,
            image_shape=image_shape,
            multi_label=multi_label,
        )

    def _pair(self, file: Path, required: bool) -> tuple[Features, np.ndarray | None]:
        """Return features and target of two .npy files."""
        if self.target is None and required:
            raise ValueError(f"data.target is not set: the .npy file of the target beside {file}")
        if self.target is None or not (required or Path(self.target).expanduser().exists()):
            return _left_in(file), None
        return _left_in(file), _load(existing_file(self.target, "data.target"))

    def _archive(self, file: Path, required: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Return features and target of one .npz file."""
        with _reading(file), zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        refuse_larger_than_memory(file, size)
        target = str(self.target or "y")
        with _reading(file), np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in (self.features, target) if name in archive}
            names = archive.files
            if not all(isinstance(each, np.ndarray) for each in arrays.values()):
                raise ValueError("one of its members is not an array")
        for key, name in (("features", self.features), ("target", target)):
            if name not in arrays and (required or key == "features"):
                raise ValueError(
                    f"data.{key}={name}: {file} has no such array; it has {listed(names)}"
                )
        return arrays[self.features], arrays.get(target)


def _left_in(file: Path) -> Features:
    """Return the array of a .npy file, left there unless its columns lie one after the other."""
    with _reading(file):
        mapped = np.lib.format.open_memmap(file, mode="r")
    if mapped.flags.c_contiguous:
        return OnDisk(file, mapped.dtype, mapped.shape, mapped.offset)
    refuse_larger_than_memory(file)
    return _load(file)


def _load(file: Path) -> np.ndarray:
    """Return the array of a .npy file."""
    with _reading(file):
        return np.load(file, allow_pickle=False)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn what NumPy says of a damaged file or of pickled objects into one line of ours."""
    try:
        yield
    except Exception as error:  # arbitrary bytes read as arrays may raise anything
        if "object" in str(error).lower() or "pickle" in str(error).lower():
            raise ValueError(
                f"{file} contains Python objects (pickle), which are never loaded: save plain "
                "numbers or texts"
            ) from error
        raise ValueError(f"{file} is damaged or not a NumPy file: {first_line(error)}") from error


def _features(
    features: Features, title: str, known: Known | None
) -> tuple[Features, tuple[str, ...], tuple[int, int] | None]:
    """Return features as (N, n_x), their names, and the pictures' shape where they are pictures."""
    if features.dtype.kind not in "buif":
        raise ValueError(f"{title}: the features are {features.dtype}; real numbers are required")
    if features.ndim not in (2, 3) or not features.size:
        raise ValueError(
            f"{title}: the features are {features.shape}; (examples, features) or "
            "(examples, rows, columns) is needed, none of them 0"
        )
    names = tuple(f"x{i}" for i in range(features.shape[1]))
    image_shape = None
    if features.ndim == 3:
        image_shape = (features.shape[1], features.shape[2])
        names = pixel_names(image_shape)
        features = features.reshape(len(features), -1)
    if known is not None and len(names) != len(known.feature_names):
        raise ValueError(f"{title} has {len(names)} features, the model {len(known.feature_names)}")
    return features, known.feature_names if known else names, image_shape


def _check_characters(labels: np.ndarray, title: str) -> None:
    """Refuse texts with numbers that stand for no character, which Python cannot hold.

    Raises:
        ValueError: one line with the file.
    """
    if labels.dtype.kind == "U" and labels.nbytes:
        native = np.ascontiguousarray(labels, dtype=labels.dtype.newbyteorder("="))
        if native.view(np.uint32).max() > sys.maxunicode:
            raise ValueError(f"{title}: the target is not valid text (UTF-32); save it anew")


def _labels(
    labels: np.ndarray, n_examples: int, title: str, known: Known | None
) -> tuple[Labels, bool]:
    """Return the target in the form of Examples, and whether it is multi-label."""
    if labels.ndim not in (1, 2) or len(labels) != n_examples:
        raise ValueError(
            f"{title}: the target is {labels.shape}; ({n_examples},) or ({n_examples}, outputs) "
            "is needed"
        )
    multi_label = labels.ndim == 2 and labels.shape[1] != 1
    if known and known.multi_label != multi_label:
        wanted = len(known.class_names) if known.multi_label else 1
        raise ValueError(f"{title}: the target is {labels.shape}, the model needs {wanted} columns")
    if not multi_label:
        _check_characters(labels, title)
        return class_labels(np.asarray(labels).reshape(-1), title, numbered, known), False
    if labels.dtype.kind not in "buif":
        raise ValueError(f"{title}: the target is {labels.dtype}; numbers in [0, 1] are required")
    names = known.class_names if known else tuple(f"y{i}" for i in range(labels.shape[1]))
    if len(names) != labels.shape[1]:
        raise ValueError(f"{title} has {labels.shape[1]} outputs, the model {len(names)}")
    return output_labels(labels, names, title, numbered, warn=known is None), True
