"""Count the house from its source alone: `python tests/tools/house.py`.

The entries and files of the package, the depth of its imports, the imports that run upwards and in
circles, lines, public functions and classes, and how docstrings begin. Imports inside functions
count.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "handgrad"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def entry_of(file: str) -> str:
    """The entry of the house in which a file lies."""
    return Path(file).parts[0].removesuffix(".py")


def imported(source: str, file: str) -> Iterator[str]:
    """Yield the dotted names of all imports, also those inside functions and by importlib."""
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


@cache
def imports_of(file: str) -> frozenset[str]:
    """The files of the package that a file imports."""
    source = (PACKAGE / file).read_text(encoding="utf-8")
    names = (name for name in imported(source, file) if name.split(".")[0] == "handgrad")
    return frozenset(target for name in names if (target := own_file(name)) and target != file)


def circles(graph: Mapping[str, frozenset[str] | set[str]]) -> list[list[str]]:
    """The groups of files that import each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


@cache
def depth(file: str) -> int:
    """How many files stand above each other, from this one down; 1 where it imports none."""
    return 1 + max(map(depth, imports_of(file)), default=0)


def docstrings() -> Iterator[str]:
    """Yield the first line of every docstring."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for file in FILES:
        for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield text.splitlines()[0]


def public_names() -> list[str]:
    """The functions and classes that modules define, without a leading underscore."""
    return [
        node.name
        for file in FILES
        for node in ast.parse((PACKAGE / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]


def main() -> None:
    """Print the figures."""
    from test_layering import may_import

    first_lines = list(docstrings())
    upward = [
        f"{file} -> {target}"
        for file in FILES
        for target in sorted(imports_of(file))
        if not may_import(file, target)
    ]
    lines = sum(len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) for file in FILES)
    share = {
        "begin with The or What": sum(line.startswith(("The ", "What ")) for line in first_lines),
        "hold a semicolon": sum(";" in line for line in first_lines),
    }
    print(f"entries: {len({entry_of(file) for file in FILES} - {'__init__'})} and __init__.py")
    print(f"files: {len(FILES)}")
    print(f"depth of imports: {max(map(depth, FILES))}")
    print(f"upward imports: {len(upward)}", *upward, sep="\n  ")
    print(f"circles: {circles({file: imports_of(file) for file in FILES})}")
    print(f"lines: {lines}")
    print(f"public functions and classes: {len(public_names())}")
    for what, count in share.items():
        print(f"docstrings whose first lines {what}: {count} of {len(first_lines)}")


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
