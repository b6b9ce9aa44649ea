"""MNIST and Fashion-MNIST: four IDX files each, read where they lie or downloaded."""

import gzip
import hashlib
import http.client
import math
import os
import struct
import tempfile
import urllib.request
import zlib
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from handgrad.data.checks import existing_file, first_line, unpacked
from handgrad.data.examples import (
    TEST,
    TRAIN,
    VALIDATION,
    Examples,
    Known,
    Source,
    check_known,
    pixel_names,
)

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
TIMEOUT = 20  # seconds without a byte from a mirror
LARGEST = 100 * 2**20  # bytes of an unpacked file; the largest real one has 47 million


class _IdxImages(Source):
    """Pictures of bytes in ten classes, with an official test set.

    The first five sixths of the training file are for training, the last sixth (10,000 of 60,000)
    for validation. A subclass sets `title`, `class_names`, `mirrors` (addresses of folders with the
    gzipped files) and `checksums` (MD5 of each unpacked file, whatever the mirror's gzip was).

    Args:
        root: folder of the four files, gzipped or not.
        download: whether files that are not there are fetched.
        train_examples: the first so many of the training split alone; None for all of it.
    """

    default_scale = "/255"
    title: ClassVar[str]
    class_names: ClassVar[tuple[str, ...]]
    mirrors: ClassVar[tuple[str, ...]]
    checksums: ClassVar[dict[str, str]]

    def __init__(
        self, *, root: str | Path, download: bool = True, train_examples: int | None = None
    ) -> None:
        self.root, self.download = Path(root).expanduser(), download
        self.train_examples = train_examples

    def prepare(self) -> None:
        """Fetch the missing files.

        Raises:
            OSError: if one is missing and may not or cannot be fetched; says what to put where.
        """
        missing = [name for name in FILES if self._find(name) is None]
        if not missing:
            return
        if not self.download:
            raise FileNotFoundError(
                self._what_to_put_where("is not there, and data.download=false")
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
            with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bar:
                for name in missing:
                    self._fetch(name, bar)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise type(error)(f"data.root={self.root}: {error.strerror}") from error

    def read(self, known: Known | None = None, *, target_required: bool = True) -> Examples:
        """Return the pictures as Source.read says, downloaded first where files are missing."""
        self.prepare()
        images, labels = self._part("train")
        test_images, test_labels = self._part("t10k")
        if images.shape[1:] != test_images.shape[1:]:
            raise ValueError(f"{self.root}: training and test pictures have different sizes")
        validation, image_shape = len(images) // 6, (images.shape[1], images.shape[2])
        present = len(images) - validation
        training = present if self.train_examples is None else self.train_examples
        if not 1 <= training <= present:
            raise ValueError(f"data.train_examples={training}: there are {present}")
        sizes = {TRAIN: training, VALIDATION: validation, TEST: len(test_images)}
        kept = np.r_[:training, len(images) - validation : len(images)]
        pictures = np.concatenate([images[kept], test_images])
        examples = Examples(
            X=pictures.reshape(len(pictures), -1),
            target=np.concatenate([labels[kept], test_labels]).astype(np.int64),
            class_names=self.class_names,
            feature_names=pixel_names(image_shape),
            splits=np.repeat(list(sizes), list(sizes.values())).astype(np.int8),
            image_shape=image_shape,
        )
        return check_known(examples, known, self.title)

    def _part(self, prefix: str) -> tuple[np.ndarray, np.ndarray]:
        """Return uint8 pictures (N, rows, columns) and labels (N,) of the training or test file."""
        files = [self._find(name) or self.root / name for name in FILES if name.startswith(prefix)]
        images, labels = (
            read_idx(file, n_axes) for file, n_axes in zip(files, (3, 1), strict=True)
        )
        if len(images) != len(labels):
            raise ValueError(
                f"{files[0]} has {len(images)} pictures, {files[1]} {len(labels)} labels"
            )
        if labels.max() >= len(self.class_names):
            raise ValueError(
                f"{files[1]} has label {labels.max()}; there are {len(self.class_names)} classes"
            )
        return images, labels

    def _find(self, name: str) -> Path | None:
        """Return the file under its usual name or its other one, gzipped or not."""
        spellings = (name, name.replace("-idx", ".idx"))
        candidates = [self.root / f"{one}{end}" for one in spellings for end in ("", ".gz")]
        return next((file for file in candidates if file.exists()), None)

    def _fetch(self, name: str, bar: Progress) -> None:
        """Download one file from the first mirror that has the right one."""
        failures = []
        for mirror in self.mirrors:
            url = f"{mirror}{name}.gz"
            try:
                self._fetch_from(url, name, bar)
                return
            except (OSError, http.client.HTTPException, EOFError, zlib.error) as error:
                if isinstance(error, PermissionError):
                    raise
                reason = getattr(error, "reason", None) or error
                failures.append(f"{urlsplit(url).netloc}: {first_line(Exception(reason))}")
        raise ConnectionError(
            self._what_to_put_where(f"could not be downloaded ({'; '.join(failures)})")
        )

    def _fetch_from(self, url: str, name: str, bar: Progress) -> None:
        """Download beside the target, verify, then rename: a broken file is never seen."""
        task = bar.add_task(f"{name}.gz", total=None)
        handle, part = tempfile.mkstemp(dir=self.root, prefix=f".{name}.", suffix=".part")
        try:
            with (
                os.fdopen(handle, "wb") as file,
                urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
            ):
                bar.update(task, total=int(answer.headers.get("Content-Length", 0)) or None)
                while chunk := answer.read(2**16):
                    file.write(chunk)
                    bar.advance(task, len(chunk))
                    if file.tell() > LARGEST:
                        raise OSError("the file is far too large")
            if unpacked_md5(Path(part)) != self.checksums[name]:
                raise OSError("the checksum is wrong")
            os.chmod(part, 0o644)
            os.replace(part, self.root / f"{name}.gz")
        finally:
            Path(part).unlink(missing_ok=True)
            bar.remove_task(task)

    def _what_to_put_where(self, problem: str) -> str:
        names = ", ".join(f"{name}.gz" for name in FILES)
        return (
            f"data={self.title} {problem}: put {names} (or unpacked) into the folder {self.root} "
            "(data.root)"
        )


class Mnist(_IdxImages):
    """70,000 handwritten digits of 28 x 28 pixels in 0..255 (LeCun, Cortes, Burges 1998)."""

    title = "mnist"
    class_names = tuple("0123456789")
    mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }


class FashionMnist(_IdxImages):
    """70,000 pieces of clothing of 28 x 28 pixels in 0..255 (Xiao, Rasul, Vollgraf 2017)."""

    title = "fashion_mnist"
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    mirrors = (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    )
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }


def read_idx(file: Path, n_axes: int) -> np.ndarray:
    """Return the bytes of an IDX file, gzipped or not, as a uint8 array.

    The format: two zero bytes, the type (8: unsigned byte), the number of axes, the axes' lengths
    as big-endian 32-bit integers, the values (Y. LeCun, yann.lecun.com/exdb/mnist).

    Raises:
        ValueError: if it is another format, has other axes, is cut or damaged.
        OSError: if it cannot be read.
    """
    existing_file(file, "data.root")
    try:
        with unpacked(file) as stream:
            content = stream.read(LARGEST)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is damaged gzip: {first_line(error)}") from error
    start = 4 + 4 * n_axes
    if content[:4] != bytes([0, 0, 8, n_axes]) or len(content) < start:
        raise ValueError(f"{file} is not an IDX file of unsigned bytes with {n_axes} axes")
    shape = struct.unpack(f">{n_axes}I", content[4:start])
    size = math.prod(shape)
    if len(content) - start != size or not size:
        raise ValueError(f"{file} announces {size} values and contains {len(content) - start}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def unpacked_md5(file: Path) -> str:
    """Return the MD5 checksum of a file's content, unpacked where it is gzipped."""
    digest = hashlib.md5(usedforsecurity=False)
    with unpacked(file) as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
