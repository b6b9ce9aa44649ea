"""MNIST's four files: read in every spelling, and downloaded from a server on loopback."""

import gzip
import hashlib
import os
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from handgrad.data import idx
from handgrad.data.idx import FILES, FashionMnist, Mnist, read_idx

pytestmark = pytest.mark.filterwarnings("error")

REAL = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "mnist"


def packed(values: np.ndarray) -> bytes:
    """The IDX format, written without the package's help."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def arrays():
    """15 training and 5 test pictures of 3 x 2 pixels, under the four files' names."""
    rng = np.random.default_rng(0)
    shapes = ((15, 3, 2), (15,), (5, 3, 2), (5,))
    limits = (256, 10, 256, 10)
    values = (rng.integers(top, size=shape) for top, shape in zip(limits, shapes, strict=True))
    return {name: one.astype(np.uint8) for name, one in zip(FILES, values, strict=True)}


@pytest.fixture
def folder(tmp_path, arrays):
    """A folder with the four files, not gzipped."""
    root = tmp_path / "root"
    root.mkdir()
    for name, values in arrays.items():
        (root / name).write_bytes(packed(values))
    return root


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and counts the answers."""

    requests: list[str]

    def log_message(self, format, *args):
        """Says nothing on standard error."""

    def do_GET(self):
        self.requests.append(self.path)
        super().do_GET()


@pytest.fixture
def server(tmp_path, arrays, monkeypatch):
    """Addresses of two folders on a server: `good` has the gzipped files; and what was asked."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    good = tmp_path / "served" / "good"
    good.mkdir(parents=True)
    for name, values in arrays.items():
        (good / f"{name}.gz").write_bytes(gzip.compress(packed(values)))
    handler = type("Handler", (Quiet,), {"requests": []})
    directory = str(tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=directory)) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}", good, handler.requests
        http.shutdown()
        thread.join()


@pytest.fixture
def stand_in(server, arrays, monkeypatch):
    """Mnist with the server's mirror and the small files' checksums."""
    monkeypatch.setattr(Mnist, "mirrors", (f"{server[0]}/good/",))
    checksums = {name: hashlib.md5(packed(values)).hexdigest() for name, values in arrays.items()}
    monkeypatch.setattr(Mnist, "checksums", checksums)


def check(examples, arrays):
    """The examples are the arrays', training first."""
    images = np.concatenate([arrays[FILES[0]], arrays[FILES[2]]])
    np.testing.assert_array_equal(examples.X, images.reshape(20, 6))
    np.testing.assert_array_equal(
        examples.target, np.concatenate([arrays[FILES[1]], arrays[FILES[3]]])
    )


@pytest.mark.parametrize("spelling", ["{}", "{}.gz"])
@pytest.mark.parametrize("dotted", [False, True])
def test_the_four_files_are_found_in_every_spelling(folder, arrays, spelling, dotted):
    for name in FILES:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        target = spelling.format(name.replace("-idx", ".idx") if dotted else name)
        (folder / target).write_bytes(gzip.compress(content) if target.endswith("gz") else content)
    check(Mnist(root=folder, download=False).read(), arrays)


def test_pictures_stay_bytes_and_the_split_is_the_official_one(folder):
    examples = Mnist(root=folder, download=False).read()
    assert examples.X.dtype == np.uint8
    assert examples.image_shape == (3, 2)
    assert examples.n_outputs == 10
    np.testing.assert_array_equal(examples.splits, [0] * 13 + [1] * 2 + [2] * 5)
    assert FashionMnist(root=folder, download=False).read().class_names[9] == "Ankle boot"


def test_the_first_examples_of_the_training_part_can_be_taken_alone(folder):
    whole = Mnist(root=folder, download=False).read()
    few = Mnist(root=folder, download=False, train_examples=4).read()
    np.testing.assert_array_equal(few.splits, [0] * 4 + [1] * 2 + [2] * 5)
    rows = [0, 1, 2, 3, *range(13, 20)]
    np.testing.assert_array_equal(few.X, whole.X[rows])
    np.testing.assert_array_equal(few.target, whole.target[rows])


@pytest.mark.parametrize("number", [0, 14])
def test_more_training_examples_than_there_are_is_refused(folder, number):
    with pytest.raises(ValueError, match=f"data.train_examples={number}: there are 13"):
        Mnist(root=folder, download=False, train_examples=number).read()


def test_another_models_pictures_are_refused(folder):
    known = FashionMnist(root=folder, download=False).read().known
    with pytest.raises(ValueError, match="data=mnist does not fit the model: its classes"):
        Mnist(root=folder, download=False).read(known)


def test_missing_files_are_downloaded_verified_and_kept(tmp_path, stand_in, server, arrays, capfd):
    root = tmp_path / "new" / "folder"
    check(Mnist(root=root).read(), arrays)
    assert sorted(file.name for file in root.iterdir()) == sorted(f"{name}.gz" for name in FILES)
    assert len(server[2]) == 4
    check(Mnist(root=root).read(), arrays)
    assert len(server[2]) == 4  # nothing is fetched twice
    assert capfd.readouterr().out == ""  # the progress bar goes to standard error


def test_only_the_missing_file_is_fetched(folder, stand_in, server, arrays):
    (folder / FILES[1]).unlink()
    check(Mnist(root=folder).read(), arrays)
    assert server[2] == [f"/good/{FILES[1]}.gz"]


def test_the_next_mirror_is_asked_when_one_fails(tmp_path, stand_in, server, arrays, monkeypatch):
    address, good, asked = server
    bad = good.parent / "bad"
    bad.mkdir()
    (bad / f"{FILES[0]}.gz").write_bytes(gzip.compress(b"other content"))
    (bad / f"{FILES[1]}.gz").write_bytes((good / f"{FILES[1]}.gz").read_bytes()[:-5])
    (bad / f"{FILES[2]}.gz").write_bytes(b"<html>Sign in to the network</html>")
    monkeypatch.setattr(Mnist, "mirrors", (f"{address}/bad/", f"{address}/good/"))
    check(Mnist(root=tmp_path / "new").read(), arrays)
    assert len(asked) == 8
    assert len(list((tmp_path / "new").iterdir())) == 4


def test_without_a_network_the_error_says_what_to_put_where(tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(Mnist, "mirrors", ("http://127.0.0.1:9/a/", "http://127.0.0.1:9/b/"))
    root = tmp_path / "new"
    with pytest.raises(OSError, match="data=mnist could not be downloaded") as caught:
        Mnist(root=root).prepare()
    message = str(caught.value)
    assert "\n" not in message
    assert all(f"{name}.gz" in message for name in FILES)
    assert f"folder {root} (data.root)" in message
    assert "refused" in message
    assert list(root.iterdir()) == []


def test_a_wrong_checksum_everywhere_leaves_nothing_behind(tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(Mnist, "checksums", dict.fromkeys(FILES, "0" * 32))
    with pytest.raises(OSError, match="the checksum is wrong"):
        Mnist(root=tmp_path / "new").prepare()
    assert list((tmp_path / "new").iterdir()) == []


def test_an_endless_answer_is_cut_off(tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(idx, "LARGEST", 10)
    with pytest.raises(OSError, match="far too large"):
        Mnist(root=tmp_path / "new").prepare()


def test_nothing_is_fetched_when_it_is_not_wanted(tmp_path, stand_in, server):
    with pytest.raises(FileNotFoundError, match=r"data.download=false.*put train-images"):
        Mnist(root=tmp_path, download=False).read()
    assert server[2] == []


def test_a_root_that_is_a_file_is_refused(tmp_path, stand_in):
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"data\.root="):
            Mnist(root=root).prepare()


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (FILES[0], lambda content: b"", "is empty"),
        (FILES[0], lambda content: content[:-1], "announces 90 values and contains 89"),
        (FILES[0], lambda content: content + b"0", "announces 90 values and contains 91"),
        (FILES[0], lambda content: content[:9], "not an IDX file"),
        (FILES[0], lambda content: b"\x00\x00\x0d" + content[3:], "not an IDX file"),
        (FILES[1], lambda content: b"PK" + content, "not an IDX file"),
        (FILES[1], lambda content: gzip.compress(content)[:-3], "damaged gzip"),
        (FILES[1], lambda content: packed(np.zeros(11, np.uint8)), "15 pictures"),
        (FILES[1], lambda content: packed(np.full(15, 10, np.uint8)), "has label 10"),
        (FILES[2], lambda content: packed(np.zeros((5, 2, 3), np.uint8)), "different sizes"),
        (FILES[3], lambda content: packed(np.zeros(0, np.uint8)), "announces 0 values"),
    ],
)
def test_a_wrong_file_is_refused_by_name(folder, name, change, expected):
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(ValueError, match=expected) as caught:
        Mnist(root=folder, download=False).read()
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_huge_announced_sizes_do_not_overflow(tmp_path):
    (tmp_path / "file").write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 4) + b"0")
    with pytest.raises(ValueError, match=f"announces {2**64} values"):
        read_idx(tmp_path / "file", 3)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real MNIST is not in ../shared/data/mnist")
def test_the_real_mnist_has_the_checksums_and_counts_that_everyone_knows():
    for name in FILES:
        assert idx.unpacked_md5(REAL / f"{name}.gz") == Mnist.checksums[name]
    examples = Mnist(root=REAL, download=False).read()
    assert examples.X.shape == (70_000, 784)
    np.testing.assert_array_equal(
        np.bincount(np.asarray(examples.splits)), [50_000, 10_000, 10_000]
    )
    np.testing.assert_array_equal(np.asarray(examples.target)[:5], [5, 0, 4, 1, 9])


def test_a_downloaded_file_may_be_read_by_others(tmp_path, stand_in):
    Mnist(root=tmp_path / "new").prepare()
    assert os.stat(tmp_path / "new" / f"{FILES[0]}.gz").st_mode & 0o777 == 0o644
