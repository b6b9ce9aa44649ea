"""A checkpoint's file is whole, or named as damaged; and a folder belongs to one run at a time."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
import torch
from conftest import Train

from handgrad.config.errors import BadInput
from handgrad.runs import checkpoint_file
from handgrad.runs.checkpoint_file import Damaged, read, write
from handgrad.runs.folder import claimed

IRIS = ("data=iris", "model.hidden=5", "logger=none", "trainer.enable_progress_bar=false")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file with weights."""
    path = tmp_path / "last.ckpt"
    write({"state_dict": {"W1": torch.arange(300.0).reshape(20, 15)}, "global_step": 3}, path)
    return path


def refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(Damaged, match=str(path)):
        read(path)


def test_what_is_written_is_read(written: Path) -> None:
    kept = read(written)
    assert kept["global_step"] == 3
    assert torch.equal(kept["state_dict"]["W1"], torch.arange(300.0).reshape(20, 15))


def test_a_file_cut_at_any_of_eight_lengths_is_named(written: Path) -> None:
    content = written.read_bytes()
    for eighth in range(8):
        refused(written, content[: len(content) * eighth // 8])
    refused(written, content[:-1])


def test_a_bit_flipped_anywhere_is_noticed(written: Path) -> None:
    content = written.read_bytes()
    places = range(0, len(content), 13)
    assert len(places) > 100
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        refused(written, bytes(flipped))
    written.write_bytes(content)
    read(written)


def test_a_file_that_cannot_be_replaced_stays(written: Path) -> None:
    content = written.read_bytes()
    with pytest.raises(TypeError, match=r"state_dict\.W1 is a \w*Path"):
        write({"state_dict": {"W1": written}}, written)
    assert written.read_bytes() == content
    assert [path.name for path in written.parent.iterdir()] == ["last.ckpt"]


def test_what_a_killed_save_left_as_one_file_leaves_nothing_else(written: Path) -> None:
    previous = written.with_name("previous.ckpt")
    os.link(written, previous)  # killed between the two renames
    newer = {"state_dict": {}, "global_step": 2}
    write(newer, written, previous)
    assert sorted(path.name for path in written.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert read(written) == newer
    assert read(previous) != newer


def test_a_damaged_checkpoint_is_named_and_a_good_one_used(train: Train) -> None:
    done = train(*IRIS, "trainer.max_epochs=2", "callbacks.checkpoint.every_n_updates=3")
    kept = done.folder / "checkpoints"
    whole = {name: (kept / f"{name}.ckpt").read_bytes() for name in ("last", "previous")}
    (kept / "last.ckpt").write_bytes(whole["last"][:-9])
    again = train(*IRIS, "trainer.max_epochs=2", "ckpt_path=last", into=done.folder)
    assert again.code == 0
    assert "last.ckpt: damaged" in " ".join(again.out.split())
    assert torch.equal(read(kept / "last.ckpt")["state_dict"]["W1"], weights(whole["last"], kept))
    for name in whole:
        (kept / f"{name}.ckpt").write_bytes(b"")
    refused = train(*IRIS, "trainer.max_epochs=3", "ckpt_path=last", into=done.folder)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert f"ckpt_path={kept / 'best.ckpt'} is good" in refused.err


def weights(content: bytes, folder: Path) -> torch.Tensor:
    path = folder / "copy.ckpt"
    path.write_bytes(content)
    kept = read(path)["state_dict"]["W1"]
    path.unlink()
    return kept


def test_a_folder_in_use_is_refused_and_left_alone(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    with claimed(folder):
        answer = train(*IRIS, "trainer.max_epochs=1", into=folder)
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "another run is writing there" in answer.err
    assert train(*IRIS, "trainer.max_epochs=1", into=folder).code == 0


def test_a_folder_is_free_again_once_its_run_has_ended(tmp_path: Path) -> None:
    for _ in range(3):
        with claimed(tmp_path / "mine"):
            pass
        assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_without_locks_is_used_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".metrics.json.tmp").touch()
    with claimed(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(BadInput, match=r"file/run: cannot be written to"),
        claimed(tmp_path / "file" / "run"),
    ):
        pass


@pytest.mark.parametrize("sweep", [False, True])
def test_a_resumed_run_reads_and_hashes_its_checkpoint_once(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: bool
) -> None:
    untested = ("data.validation=0", "data.test=0", "trainer.max_epochs=1")  # no best.ckpt to test
    place = (f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=mine", "-m") if sweep else ()
    done = train(*IRIS, *untested, *place, into=tmp_path / "mine")
    assert done.code == 0, done.err
    (tmp_path / "mine" / "metrics.json").unlink()  # so that it is not done
    (tmp_path / "mine" / "outcome.json").unlink(missing_ok=True)
    hashed, seal = [], checkpoint_file._seal
    monkeypatch.setattr(checkpoint_file, "_seal", lambda content: hashed.append(1) or seal(content))
    monkeypatch.setattr(checkpoint_file, "write", lambda *_: None)
    go_on = place or ("ckpt_path=last",)
    again = train(*IRIS, *untested, *go_on, into=tmp_path / "mine")
    assert again.code == 0, again.err
    assert hashed == [1]
