"""The README and the longer pages: every command does what it says, every link leads somewhere."""

import json
import os
import re
import shlex
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import NamedTuple, get_args

import forked
import numpy as np
import pandas as pd
import pytest
from conftest import CONF, ROOT
from hydra._internal.hydra import Hydra

from handgrad.config.schema import Main
from handgrad.tasks import cli

DOCS = ROOT / ".github" / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAMED = re.compile(r"`([\w./]+\.\w+)`[^`]*:\s*$")  # before the block that is its content
SET_UP = (
    "-m venv",
    "bin/activate",
    "pip install",
    "-m pytest",
)  # what a clean clone and .ci/run prove
NUMBERS = count()
SHORTER = "trainer.max_epochs=1"


class Step(NamedTuple):
    """A file that the reader writes, or a command that the reader types."""

    file: str
    text: str
    code: int = 0  # the exit code that the page promises
    extra: str | None = None  # that has to be installed


def steps(page: Path) -> Iterator[Step]:
    """What a reader does who follows a page from top to bottom."""
    text = page.read_text()
    for block in BLOCK.finditer(text):
        language, content = block.groups()
        if language == "bash":
            for line in content.splitlines():
                yield from commands(line)
        elif language != "text":
            named = FILE_NAMED.search(text[: block.start()])
            assert named, f"{page.name}: no file named before the {language} block {content!r}"
            yield Step(named[1], content)


def commands(line: str) -> Iterator[Step]:
    """The commands of one line; its comment tells the exit code and the extra."""
    command, _, comment = line.partition("  #")
    code = re.search(r"exit code (\d+)", comment)
    extra = re.search(r"\.\[(\w+)\]", comment)
    for part in command.split("&&"):
        if part.strip() and not part.startswith("#") and not any(word in part for word in SET_UP):
            yield Step("", part.strip(), int(code[1]) if code else 0, extra[1] if extra else None)


SHOWCASES = [step.text for step in steps(DOCS / "data.md") if "model.hidden=12" in step.text]


def installed(extra: str) -> bool:
    needed = [each for each in metadata.requires("handgrad") or () if f'extra == "{extra}"' in each]
    assert needed, f"there is no extra {extra}"
    return all(find_spec(re.split(r"\W", each)[0]) for each in needed)


@pytest.fixture
def readers_folder(tmp_path: Path) -> Path:
    """A folder with data of the reader's own, and with a small MNIST where data.root has it."""
    draw = np.random.default_rng(0)
    features, labels = draw.normal(size=(60, 3)), np.arange(60) % 3
    table = pd.DataFrame(features, columns=["length", "width", "height"])
    table.to_csv("new.csv", index=False)
    table["red"], table["round"] = labels % 2, labels // 2
    table.to_csv("tags.csv", index=False)
    table = table.drop(columns=["red", "round"]).assign(label=labels)
    table.to_csv("mine.csv", index=False)
    if installed("parquet"):
        table.to_parquet("mine.parquet")
    np.savez("mine.npz", X=features, y=labels)
    np.save("X.npy", features)
    np.save("y.npy", labels)
    root = tmp_path / "data" / "mnist"
    root.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = draw.integers(0, 256, (60, 28, 28), dtype=np.uint8)
        header = struct.pack(">4I", 0x803, *images.shape)
        (root / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header, classes = struct.pack(">2I", 0x801, 60), np.arange(60, dtype=np.uint8) % 10
        (root / f"{part}-labels-idx1-ubyte").write_bytes(header + classes.tobytes())
    return tmp_path


def write(step: Step, folder: Path) -> None:
    path = folder / step.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(step.text)
    sys.modules.pop(path.stem, None)  # a function of this name was read from another page


def run(command: str) -> int:
    """The exit code of a command; train.py runs in this process, which saves its start."""
    program, *arguments = shlex.split(command)
    if program == "tensorboard":
        return answers_on_http(arguments)
    assert program in ("python", ".venv/bin/python"), f"{command}: what is {program}?"
    if arguments[0] != "train.py":
        return subprocess.run([sys.executable, *arguments], timeout=120).returncode
    if "dashboard=" not in command and len(arguments) > 1:
        arguments.append("dashboard=off")  # drawing takes longer than a small training
    if "trainer.max_epochs" not in command:
        arguments.append(SHORTER)
    if (
        "-m" not in arguments and "hydra.run.dir" not in command
    ):  # folders are told apart by second and process, and this is one
        arguments.append(f"hydra.run.dir=logs/{next(NUMBERS)}")
    sys.argv = arguments
    try:
        return cli.main(CONF)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)


def answers_on_http(arguments: list[str]) -> int:
    """0 if TensorBoard starts, shows a run, and stops."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", *arguments, f"--port={port}"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs") as answer:
                    if answer.read().strip() not in (b"", b"[]"):
                        return 0
            except OSError:
                pass
            time.sleep(0.2)
        return server.poll() or 1
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_ends_as_the_page_says(
    page: Path,
    readers_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: None)  # see conftest.py's train
    forked.replace_spawn(monkeypatch)
    for step in steps(page):
        if step.file:
            write(step, readers_folder)
        elif step.text not in SHOWCASES and (step.extra is None or installed(step.extra)):
            capfd.readouterr()
            code = run(step.text)
            assert code == step.code, f"{step.text}\n{''.join(capfd.readouterr())}"


def test_the_commands_of_the_readme_are_found() -> None:
    found = list(steps(ROOT / "README.md"))
    assert sum(step.text.startswith("python train.py") for step in found) >= 10
    assert any(step.text.startswith("tensorboard") for step in found)
    assert [step.file for step in found if step.file] == ["my_backward.py"]
    assert any(step.code == 1 for step in found)
    assert any(step.extra == "export" for step in found)


@pytest.mark.parametrize("command", SHOWCASES, ids=lambda command: command.split()[2])
def test_a_showcase_succeeds(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    if "trainer.max_epochs" not in command:
        command += " trainer.max_epochs=30"  # the default, which `run` would shorten
    assert run(f"{command} dashboard=off logger=none hydra.run.dir={tmp_path / 'run'}") == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["accuracy/val"] >= 0.99


def test_the_tables_of_data_and_tasks_are_whole() -> None:
    data = re.findall(r"`(\w+)`", first_cells(DOCS / "data.md"))
    assert sorted(data) == sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
    tasks = re.findall(r"^\| `(\w+)` \|", first_cells(DOCS / "configuration.md"), re.MULTILINE)
    accepted = Main.model_fields["task"].annotation
    assert sorted(tasks) == sorted(get_args(accepted))


def first_cells(page: Path) -> str:
    """The first column of a page's first table."""
    table = re.search(r"(^\|.*\n)+", page.read_text(), re.MULTILINE)
    assert table
    return "\n".join(row.split(" | ")[0] + " |" for row in table[0].splitlines()[2:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub makes them into links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_the_project_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`((?:src|conf|tests)/[\w./]*)`", page.read_text())
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_every_page_is_linked_from_the_readme(page: Path) -> None:
    assert os.path.relpath(page, ROOT) in (ROOT / "README.md").read_text()
