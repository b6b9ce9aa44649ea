"""Alter checkpoints at random, use them in every way, and look for traces, lost files and hangs.

    python tests/tools/altered_checkpoints.py [COUNT] [SEED]

Each is a good checkpoint in which a key was dropped, retyped or replaced, a tensor has other sizes
or numbers, or the file was cut, flipped, packed or stretched. It is resumed, tested or otherwise
used by a forked `train.py`. Right is: exit code 0 or 1, or 2 with one line and every file as it
was; never a traceback, and never longer than a minute.
"""

import copy
import hashlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"
import torch

from handgrad.tasks import check, cli, compare, examples, predict, test, train
from handgrad.tasks.sweep import summary

CONF = Path(__file__).parents[2] / "conf"
LONGEST = 60  # seconds
LOADED = (check, compare, examples, predict, test, train, summary)  # before a fork, once
COMMON = (
    *("dashboard=off", "logger=csv", "trainer.enable_progress_bar=false"),
    *("trainer.max_epochs=3", "model.hidden=3"),
)
RUNS = {
    "plain": ("data=iris",),
    "adam": (
        *("data=iris", "optimizer=adam", "optimizer.weight_decay=0.01", "scheduler=plateau"),
        *("callbacks.early_stopping.patience=9", "callbacks.curves.parts=[train]"),
    ),
    "momentum": ("data=parity", "optimizer=momentum", "scheduler=step"),
    "lbfgs": ("data=iris", "data.batch_size=full", "optimizer=lbfgs"),
    "feedback": ("data=iris", "backward=feedback_alignment", "scheduler=exponential"),
}
USES: dict[str, Callable[[Path], list[str]]] = {
    "resume": lambda run: ["ckpt_path=last", f"hydra.run.dir={run}"],
    "branch": lambda run: [f"ckpt_path={run}/checkpoints/last.ckpt", f"hydra.run.dir={run}/new"],
    "sweep": lambda run: [
        *("-m", "seed=0", f"hydra.sweep.dir={run.parent}", f"hydra.sweep.subdir={run.name}")
    ],
    "check": lambda run: ["task=check", f"ckpt_path={run}"],
    "test": lambda run: ["task=test", f"ckpt_path={run}/checkpoints/last.ckpt"],
    "predict": lambda run: ["task=predict", f"ckpt_path={run}/checkpoints/last.ckpt"],
    "examples": lambda run: ["task=examples", f"ckpt_path={run}/checkpoints/last.ckpt"],
    "compare": lambda run: ["task=compare", f"compare.runs=[{run},{run.parent}/good]"],
}
OF_TRAINING = ("resume", "branch", "sweep", "check")  # which take the keys of the run
VALUES = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 10**40, -(10**4000), 0.0, -0.5, 1e308),
    *(float("nan"), float("inf"), "", "a", "\x1b[31m\x1b]0;owned\x07\r\n", "\ud800", "x" * 10**5),
    *([], {}, (), [0], {"a": 1}, {1: {}}, b"bytes", 1j, {1, 2}, torch.float16, [None] * 3),
    *(torch.zeros(()), torch.zeros(0), torch.zeros(3), torch.zeros(2, 7), torch.tensor(3)),
    *(torch.zeros(1).expand(3, 4), torch.zeros(3, 4).to_sparse(), torch.zeros(2, device="meta")),
    *("os.system", "/etc/passwd", "/dev/zero", "..", "0.0.1", "1" * 9000),
)


class Ended(NamedTuple):
    """Holds how a use of a checkpoint ended."""

    code: int
    out: str
    err: str
    seconds: float


def use(arguments: list[str], cwd: Path) -> Ended:
    """Be `python train.py ARGUMENTS` in a fork of this process."""
    start = time.monotonic()
    pid = os.fork()
    if not pid:
        os.chdir(cwd)
        for name, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["train.py", *arguments]
        code = 99
        try:
            code = cli.main(CONF)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 99
        except BaseException:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        seconds = time.monotonic() - start
        if done or seconds > LONGEST:
            break
        time.sleep(0.01)
    if not done:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    texts = ((cwd / name).read_bytes().decode(errors="surrogateescape") for name in ("out", "err"))
    return Ended(os.waitstatus_to_exitcode(status), *texts, seconds)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values within containers."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, each in inner:
        found.append((*at, key))
        if isinstance(each, dict | list | tuple):
            found += places(each, (*at, key))
    return found


def changed(value: Any, place: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """Return a copy with another value at a place, or without it where the change is `places`."""
    key, *rest = place
    made = dict(value) if isinstance(value, dict) else list(value)
    if rest:
        made[key] = changed(made[key], tuple(rest), change)
    elif change is places:
        del made[key]
    else:
        made[key] = change(made[key])
    return tuple(made) if isinstance(value, tuple) else made


def other(draw: random.Random, value: Any) -> Any:
    """Return another value of about the same kind, or of any kind."""
    near: list[Any] = []
    if isinstance(value, torch.Tensor):
        wide = value.double() if value.is_floating_point() else value
        turned = value.t() if value.dim() == 2 else value.flatten()[:1]
        near = [turned, value[None], wide, torch.zeros_like(value), value.to(torch.int64)]
        near += [torch.full_like(wide, float("nan"))] if value.is_floating_point() else []
    elif isinstance(value, bool):
        near = [not value]
    elif isinstance(value, int | float):
        near = [value + 1, -value, value * 10**6, str(value), float(value), [value]]
    elif isinstance(value, str):
        near = [value + "x", value[:-1], f"\x1b[2J{value}", [value], value.upper()]
    elif isinstance(value, list | tuple):
        near = [[*value, *value], list(value)[1:], tuple(value), dict(enumerate(value))]
    elif isinstance(value, dict):
        near = [{}, list(value.items()), {**value, "more": 1}, {**value, 3: 1}, {"\x1b[1m": value}]
    return draw.choice(near) if near and draw.random() < 0.6 else draw.choice(VALUES)


def alter_content(draw: random.Random, good: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Change one to three values, each as likely at the top as deep within."""
    told = []
    for _ in range(draw.choice([1, 1, 1, 1, 2, 3])):
        every = [each for each in places(good) if each[0] != "config" or draw.random() < 0.3]
        depth = draw.choice(sorted({len(each) for each in every}))
        place = draw.choice([each for each in every if len(each) == depth])
        if draw.random() < 0.3:
            good = changed(good, place, places)
            told.append(f"{place} dropped")
        else:
            new: list[Any] = []
            good = changed(good, place, lambda was: new.append(other(draw, was)) or new[0])  # noqa: B023
            told.append(f"{place} = {ascii(new[0])[:60]}")
    return good, "; ".join(told)


def nested(draw: random.Random, good: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Put a container in that unfolds to billions of values, or contains itself."""
    inner: list[Any] = [0]
    for _ in range(40):
        inner = [inner, inner]
    endless: list[Any] = []
    endless.append(endless)
    name = draw.choice(["config", "callbacks", "loops", "gathered", "fingerprint", "anything"])
    return {**good, name: {"a": draw.choice([inner, endless])}}, f"nested in {name}"


def packed(content: bytes, bomb: bool) -> bytes:
    """Return the archive compressed, with three gigabytes of zeros in a bomb."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for each in source.infolist():
            target.writestr(each.filename, source.read(each.filename))
        if bomb:
            with target.open("archive/data/999", "w", force_zip64=True) as file:
                for _ in range(3 * 2**5):
                    file.write(bytes(2**25))
    return made.getvalue()


def alter_file(draw: random.Random, path: Path) -> str:
    """Change the bytes of a file."""
    content = path.read_bytes()
    how = draw.choice(["cut", "flip", "flip", "stretch", "pack", "bomb", "noise", "empty", "hole"])
    at = draw.randrange(len(content))
    if how == "cut":
        path.write_bytes(content[:at])
    elif how == "flip":
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
    elif how == "stretch":
        os.truncate(path, 500 * 10**9)
    elif how in ("pack", "bomb"):
        path.write_bytes(packed(content, bomb=how == "bomb" and draw.random() < 0.3))
    elif how == "hole":
        with path.open("wb") as file:
            file.write(content[:at])
            file.seek(300 * 10**9)
            file.write(content)
    else:
        path.write_bytes(draw.randbytes(at) if how == "noise" else b"")
    return f"{how} at {at}"


def digests(folder: Path) -> dict[str, str]:
    """Return what every file below a folder contains, where a huge one has only its size.

    Hydra's own record of the newest command, and the lock, are left out.
    """
    return {
        str(path.relative_to(folder)): str(path.stat().st_size)
        if path.stat().st_size > 10**9
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and path.parent.name != ".hydra"
    }


def judge(ended: Ended, before: dict[str, str], run: Path) -> str:
    """Return what is wrong with how a use ended, which is empty where nothing is."""
    text, after = ended.out + ended.err, digests(run)
    if ended.seconds > LONGEST:
        return "a hang"
    if ended.code not in (0, 1, 2) or "Traceback" in text:
        return f"exit code {ended.code}"
    if any(not (each.isprintable() or each == "\n") for each in text):
        return "a control character"
    if ended.code and len(ended.err.strip().splitlines()) != 1:
        return "not one line"
    if before.keys() - after.keys():
        return f"lost: {before.keys() - after.keys()}"
    if ended.code == 2 and (altered := [name for name in before if after[name] != before[name]]):
        return f"changed: {altered}"
    return ""


def main(count: int, seed: int) -> int:
    """Alter and use `count` checkpoints, and return how many of them went wrong."""
    root, bad, codes = Path(tempfile.mkdtemp()), 0, Counter[str]()
    for name, keys in RUNS.items():
        ended = use([*COMMON, *keys, f"hydra.run.dir={root}/{name}/good"], root)
        assert ended.code == 0, ended.err
        shutil.copytree(root / name / "good", root / name / "unaltered")
        more = [*COMMON, *keys, "trainer.max_epochs=5", *USES["resume"](root / name / "unaltered")]
        assert use(more, root).code == 0
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        name, use_of = draw.choice(sorted(RUNS)), draw.choice(sorted(USES))
        run = root / name / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(root / name / "good", run)
        (run / "metrics.json").unlink()
        paths = [run / "checkpoints" / f"{each}.ckpt" for each in ("last", "previous", "best")]
        good = torch.load(paths[0], weights_only=True)
        kind = draw.choice(["content"] * 7 + ["file"] * 3 + ["nested"])
        if kind == "file":
            told = alter_file(draw, paths[0])
        else:
            make = nested if kind == "nested" else alter_content
            content, told = make(draw, copy.deepcopy(good))
            torch.save(content, paths[0])
        for path in paths[1:]:
            if draw.random() < 0.7:
                path.unlink(missing_ok=True)
        keys = [*COMMON, *RUNS[name], "trainer.max_epochs=5"] if use_of in OF_TRAINING else []
        before = digests(run)
        keys += [] if use_of in ("resume", "branch", "sweep") else [f"hydra.run.dir={root}/out"]
        ended = use([*keys, *USES[use_of](run)], root)
        codes[f"{kind} {ended.code}"] += 1
        if wrong := judge(ended, before, run):
            bad += 1
            print(f"#{number} {name}, {use_of}: {told}: {wrong}")
            print(ended.out[-300:], ended.err[-1500:], flush=True)
        shutil.rmtree(root / "out", ignore_errors=True)
    print(
        f"{count} altered checkpoints, seed {seed}: {bad} went wrong; {dict(sorted(codes.items()))}"
    )
    shutil.rmtree(root)
    return bad


if __name__ == "__main__":
    arguments = [int(each) for each in sys.argv[1:]]
    sys.exit(bool(main(*arguments, *(200, 0)[len(arguments) :])))
