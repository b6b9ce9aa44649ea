"""The house: twelve entries, and imports that run only down its list.

A file that breaks the order is named with the import that breaks it, also where the import stands
inside a function or is made by name.
"""

import subprocess
import sys

import pytest
from house import FILES, PACKAGE, circles, depth, entry_of, imported, imports_of, own_file

ORDER = (  # an entry may import itself and what stands below it
    *("tasks", "dashboard", "runs", "audit", "module", "statistics", "rules", "training"),
    *("devices", "data", "config", "backprop"),
)
CONFIGURATION = {"hydra", "omegaconf"}
FRAMEWORKS = {"lightning", "pytorch_lightning", "lightning_fabric", *CONFIGURATION}
BANNED = {  # libraries that an entry does without
    "__init__": {*FRAMEWORKS, "torch"},
    "backprop": FRAMEWORKS,
    "config": {*FRAMEWORKS, "torch"} - CONFIGURATION,  # the command line answers before these load
    **dict.fromkeys(("training", "rules", "statistics", "audit"), FRAMEWORKS),
    **dict.fromkeys(("data", "devices", "module", "dashboard"), CONFIGURATION),
}


def offences(source: str, file: str) -> list[str]:
    """Each import that the file's place in the house forbids."""
    entry, found = entry_of(file), []
    for name in imported(source, file):
        root = name.split(".")[0]
        if root in BANNED.get(entry, set()) or root in {"train", "src", "tests"}:
            found.append(name)
        elif root == "handgrad":
            target = own_file(name)
            if target is None or not may_import(file, target):
                found.append(name)
        elif entry == "backprop" and root not in {"torch", *sys.stdlib_module_names}:
            found.append(name)
    return found


def may_import(file: str, target: str) -> bool:
    """Whether a file may import another: one below it, or of its own entry but not the package."""
    entry, other = entry_of(file), entry_of(target)
    if "__init__" in (entry, other):
        return False
    if entry == other:
        return target != f"{entry}/__init__.py" and entry != f"{entry}.py"
    return ORDER.index(entry) < ORDER.index(other)


@pytest.mark.parametrize("file", FILES)
def test_imports_run_only_downwards(file: str) -> None:
    assert offences((PACKAGE / file).read_text(encoding="utf-8"), file) == []


def test_no_imports_run_in_a_circle() -> None:
    assert circles({file: imports_of(file) for file in FILES}) == []


def test_at_most_fifteen_files_stand_above_each_other() -> None:
    assert max(map(depth, FILES)) <= 15


def test_the_house_has_twelve_entries() -> None:
    assert {entry_of(file) for file in FILES} == {"__init__", *ORDER}


# Tests of the tester.

FORBIDDEN = {
    "equations_import_rules": ("backprop.py", "from handgrad.rules import custom"),
    "equations_import_numpy": ("backprop.py", "import numpy as np"),
    "equations_import_the_package": ("backprop.py", "import handgrad"),
    "rules_import_lightning": ("rules/feedback.py", "def f():\n    import lightning.pytorch"),
    "rules_import_statistics": ("rules/feedback.py", "from handgrad import statistics"),
    "rules_import_their_own_package": ("rules/planted.py", "from handgrad.rules import custom"),
    "relative": ("rules/feedback.py", "from ..audit import anything"),
    "relative_package": ("rules/feedback.py", "from .. import audit"),
    "data_imports_equations": ("data/module.py", "from ..module import TwoLayerNetwork"),
    "data_imports_hydra": ("data/module.py", "from hydra.utils import instantiate"),
    "runs_import_tasks": ("runs/loading.py", "def f():\n    from handgrad.tasks import build"),
    "by_name": (
        "rules/feedback.py",
        "import importlib\nimportlib.import_module('handgrad.module')",
    ),
    "train": ("data/module.py", "import train"),
    "unknown": ("data/module.py", "from handgrad.nowhere import anything"),
}


@pytest.mark.parametrize(("file", "source"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_forbidden_import_is_seen(file: str, source: str) -> None:
    assert len(offences(source, file)) == 1


def test_permitted_imports_pass() -> None:
    source = "import math, torch\nfrom handgrad import backprop\nfrom .planted import mistake"
    assert offences(source, "rules/feedback.py") == []


def test_a_circle_is_seen() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set[str]()}
    assert circles(graph) == [["b", "c"]]


# What Python really loads.


def loaded_by(modules: list[str]) -> set[str]:
    """All modules that a fresh interpreter holds after importing these."""
    code = f"import {', '.join(modules)}, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def modules_of(*entries: str) -> list[str]:
    """The modules of these entries, as import names."""
    return [
        f"handgrad.{file}".removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for file in FILES
        if entry_of(file) in entries
    ]


def test_neither_the_mathematics_nor_a_contenders_process_loads_lightning_or_hydra() -> None:
    mathematics = modules_of("backprop", "training", "rules", "statistics", "audit")
    loaded = loaded_by([*mathematics, "handgrad.tasks.benchmark.worker"])
    assert loaded & {*FRAMEWORKS, "matplotlib"} == set()


def test_data_loads_neither_the_network_nor_hydra() -> None:
    loaded = loaded_by(modules_of("data"))
    assert "handgrad.data.module" in loaded
    assert loaded & {*modules_of(*ORDER[:-4], "backprop"), *CONFIGURATION} == set()


def test_the_command_line_answers_before_torch_is_loaded() -> None:
    assert (
        loaded_by(["handgrad.tasks.cli", "handgrad.config.validate"]) & {"torch", "lightning"}
        == set()
    )


def test_the_package_itself_loads_nothing() -> None:
    assert loaded_by(["handgrad"]) & {*FRAMEWORKS, "torch", "numpy"} == set()
