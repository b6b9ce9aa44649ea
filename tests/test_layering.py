"""Imports run one way, and the equations need nothing but torch.

The table says where each file belongs and what its layer may import. A new file that the table
does not know fails here: place it in the lowest layer that can hold it.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "handgrad"
FRAMEWORKS = {"lightning", "pytorch_lightning", "lightning_fabric", "hydra", "omegaconf"}
CONFIGURATION = {"hydra", "omegaconf"}


class Layer(NamedTuple):
    """One layer: its files, the layers that it may import, the libraries that it may not."""

    files: tuple[str, ...]
    layers: frozenset[str]
    banned: set[str]


LAYERS = {
    "package": Layer(("__init__.py",), frozenset(), FRAMEWORKS | {"torch"}),
    "equations": Layer(("backprop.py",), frozenset(), FRAMEWORKS),
    "rules": Layer(
        (
            *("rules.py", "mistakes.py", "custom.py", "initialization.py", "function.py"),
            *("audit.py", "answer.py", "reference.py", "diagnosis.py", "evidence.py"),
            *("checksum.py", "tally.py", "gradient_sum.py", "loss_scale.py", "precision.py"),
            *("statistics.py", "curvature.py", "recording.py"),
        ),
        frozenset({"equations", "rules"}),
        FRAMEWORKS,
    ),
    "data": Layer(("data/*.py",), frozenset({"data"}), CONFIGURATION),
    "module": Layer(
        ("module.py", "gathering.py", "blocks.py", "nonfinite.py", "optimizers.py"),
        frozenset({"equations", "rules", "module"}),
        CONFIGURATION,
    ),
    "processes": Layer(
        (
            *("allocator.py", "errors.py", "ranks.py", "signals.py", "meeting.py", "launch.py"),
            *("strategy.py", "threads.py"),
        ),
        frozenset({"processes"}),
        CONFIGURATION,
    ),
    "dashboard": Layer(
        ("dashboard/*.py",),
        frozenset({"equations", "rules", "data", "module", "dashboard"}),
        CONFIGURATION,
    ),
    "program": Layer(
        (
            *("*schema*.py", "refusals.py", "config.py", "cli.py", "build.py", "tasks/*.py"),
            *("benchmark/*.py", "replay/*.py", "curves.py", "saved.py", "record.py", "quiet.py"),
            *("checkpoint*.py", "fingerprint.py", "resume.py", "continued.py", "csv_log.py"),
            *("run_folder.py", "progress.py", "live_check.py", "drift.py", "stopping.py"),
            *("sweep/*.py", "earlier.py"),
            *("tables.py", "spreadsheet.py", "help_page.py"),
        ),
        frozenset(
            {"package", "equations", "rules", "data", "module", "dashboard", "processes", "program"}
        ),
        set(),
    ),
}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def layer_of(file: str) -> str:
    homes = [
        name
        for name, layer in LAYERS.items()
        if any(fnmatch(file, pattern) for pattern in layer.files)
    ]
    assert len(homes) == 1, f"src/handgrad/{file} is in {homes}: place it in one layer of LAYERS"
    return homes[0]


def imported(source: str, file: str) -> Iterator[str]:
    """The dotted names of all imports, also those inside functions and by importlib."""
    package = ["handgrad", *Path(file).parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = (
                node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            )
            name = node.args[0]
            if called in {"import_module", "__import__"} and isinstance(name, ast.Constant):
                yield str(name.value)


def own_file(name: str) -> str | None:
    """The file of the package in which a dotted name lives: its longest prefix that is a file."""
    parts = name.split(".")[1:]
    for length in range(len(parts), -1, -1):
        stem = "/".join(parts[:length])
        for file in (f"{stem}.py", f"{stem}/__init__.py".lstrip("/")):
            if file in FILES:
                return file
    return None


def offences(source: str, file: str) -> list[str]:
    """Each import that the file's layer may not make."""
    layer, found = LAYERS[layer_of(file)], []
    for name in imported(source, file):
        root = name.split(".")[0]
        if root in layer.banned or root in {"train", "src", "tests"}:
            found.append(name)
        elif root == "handgrad":
            target = own_file(name)
            if target is None or layer_of(target) not in layer.layers:
                found.append(name)
        elif file == "backprop.py" and root not in {"torch", *sys.stdlib_module_names}:
            found.append(name)
    return found


@pytest.mark.parametrize("file", FILES)
def test_imports_run_one_way(file: str) -> None:
    assert offences((PACKAGE / file).read_text(encoding="utf-8"), file) == []


def test_the_table_names_only_files_that_exist() -> None:
    patterns = [pattern for layer in LAYERS.values() for pattern in layer.files]
    absent = [p for p in patterns if not any(fnmatch(file, p) for file in FILES)]
    assert absent == []


# Tests of the tester.

FORBIDDEN = {
    "equations_import_rules": ("backprop.py", "from handgrad.rules import custom"),
    "equations_import_numpy": ("backprop.py", "import numpy as np"),
    "equations_import_themselves": ("backprop.py", "import handgrad"),
    "rules_import_lightning": ("rules.py", "def f():\n    import lightning.pytorch"),
    "rules_import_data": ("rules.py", "from handgrad import data"),
    "relative": ("rules.py", "from .data import anything"),
    "relative_package": ("rules.py", "from . import data"),
    "data_imports_equations": ("data/__init__.py", "from ..backprop import forward"),
    "data_imports_hydra": ("data/__init__.py", "from hydra.utils import instantiate"),
    "by_name": ("rules.py", "import importlib\nimportlib.import_module('handgrad.data')"),
    "train": ("data/__init__.py", "import train"),
    "unknown": ("data/__init__.py", "from handgrad.nowhere import anything"),
}


@pytest.mark.parametrize(("file", "source"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_forbidden_import_is_seen(file: str, source: str) -> None:
    assert len(offences(source, file)) == 1


def test_permitted_imports_pass() -> None:
    source = (
        "import math, torch\nfrom handgrad import backprop, mistakes\nfrom .custom import custom"
    )
    assert offences(source, "rules.py") == []


def test_a_file_without_a_place_is_asked_to_take_one() -> None:
    with pytest.raises(AssertionError, match="place it in one layer"):
        layer_of("utils.py")


# What Python really loads.


def loaded_by(modules: list[str]) -> set[str]:
    """All modules that a fresh interpreter holds after importing these."""
    code = f"import {', '.join(modules)}, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def modules_of(*layers: str) -> list[str]:
    """The modules of these layers, as import names."""
    files = [file for file in FILES if layer_of(file) in layers]
    return [
        f"handgrad.{file}".removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
        for file in files
    ]


def test_equations_and_rules_load_neither_lightning_nor_hydra() -> None:
    assert loaded_by(modules_of("equations", "rules")) & FRAMEWORKS == set()


def test_data_loads_neither_the_network_nor_hydra() -> None:
    loaded = loaded_by(modules_of("data"))
    assert "handgrad.data" in loaded
    assert (
        loaded & {*modules_of("equations", "rules", "module", "program"), *CONFIGURATION} == set()
    )


def test_the_package_itself_loads_nothing() -> None:
    assert loaded_by(["handgrad"]) & {*FRAMEWORKS, "torch", "numpy"} == set()
