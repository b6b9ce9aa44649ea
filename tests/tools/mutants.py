"""Mistakes made mechanically: every small change to the source of the backward pass.

`mutants(cost)` changes one thing at a time in `backprop.backward` and in the cost's dz2: an
operator, an operand, a transpose, a variable, an axis, a number, a whole right side, a statement.
Run as a script it prints the verdict of the audit on each: `python tests/tools/mutants.py`.
"""

import ast
import copy
import inspect
import linecache
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from handgrad import backprop
from handgrad.audit.judge import audit_probes
from handgrad.backprop import Cost, Gradients, cross_entropy, quadratic

LINES = Gradients._fields
MEANS = ("dW2", "db2", "dW1", "db1")

OPERATORS: dict[type[ast.operator], list[ast.operator]] = {
    ast.Add: [ast.Sub(), ast.Mult()],
    ast.Sub: [ast.Add(), ast.Mult(), ast.Div()],
    ast.Mult: [ast.Add(), ast.Sub(), ast.Div(), ast.Pow()],
    ast.Div: [ast.Mult(), ast.Sub()],
    ast.MatMult: [ast.Mult(), ast.Add()],
}

VARIABLES = {
    "dz2": ["activations.A2", "activations.z2", "Y", "params.W2", "dz2[:1]", "dz2.round()"],
    "dz1": ["A1", "activations.z1", "dz2", "dz2 @ W2", "dz1[:1]"],
    "A1": ["activations.z1", "torch.sigmoid(A1)", "A1[:1]", "activations.A2", "A1 ** 2", "X"],
    "W2": ["dW2", "params.W1", "W2.abs()", "W2.sign()", "W2[:1]", "(W2 - 0.01 * dW2)"],
    "X": ["A1", "Y", "X[:1]", "X.clamp(-1, 1)", "X.abs()"],
    "m": ["(m - 1)", "(m + 1)", "X.shape[1]", "Y.shape[1]", "len(W2)", "(m * Y.shape[1])", "2"],
    "A2": ["activations.z2", "activations.A2.round()", "torch.sigmoid(activations.A2)"],
    "Y": ["activations.A2", "Y.round().clamp(0.1, 0.9)", "Y.mean()", "(1 - Y)"],
}

WHOLE = [
    *["-({})", "2 * ({})", "1.001 * ({})", "({}) / len(Y)", "({}) * len(Y)", "({}).abs()"],
    *["({}) + 0.001", "torch.zeros_like({})", "({}).clamp(-0.01, 0.01)", "({}).mT", "({}) ** 2"],
    *["({})[:-1]", "torch.nn.functional.relu({})", "({}).double().half()"],
]


class Mutant(NamedTuple):
    """A backward pass with one change.

    Attributes:
        text: the changed statement.
        lines: the lines that are not what they should be.
        rule: the changed pass itself.
    """

    text: str
    lines: tuple[str, ...]
    rule: Callable[..., Gradients]


def mutants(cost: Cost) -> list[Mutant]:
    """Every mutant under this cost, each once."""
    found: dict[str, Mutant] = {}
    for text, lines, rule in (*_of_backward(cost), *_of_dz2(cost)):
        found.setdefault(text, Mutant(text, lines, rule))
    return list(found.values())


def _of_backward(cost: Cost) -> Iterator[Mutant]:
    function = _function(backprop.backward)
    for position, statement in enumerate(function.body):
        if not isinstance(statement, ast.Assign):
            continue
        target = ast.unparse(statement.targets[0])
        lines = (target,) if target in LINES else MEANS
        for value in _changes(statement.value, target in LINES):
            changed = ast.Assign(statement.targets, value, lineno=1)
            yield _planted(cost, function, position, [changed], lines)
        if target == "dz1":
            for step in ("dW2", "0.1 * dW2", "-0.5 * dW2"):
                moved = ast.parse(f"W2 = W2 - {step}").body
                yield _planted(cost, function, position, [*moved, statement], ("dz1",))
        if target in LINES:
            yield _planted(
                cost, function, position, [ast.Pass()], (target,), f"without {target} = ..."
            )
    for first, second in (("dz2", "dz1"), ("dW2", "dW1"), ("db2", "db1")):
        order = {first: second, second: first}
        names = ", ".join(order.get(name, name) for name in LINES)
        changed = ast.parse(f"def f(): return Gradients({names})").body[0]
        assert isinstance(changed, ast.FunctionDef)
        yield _planted(cost, function, len(function.body) - 1, changed.body, (first, second))


def _of_dz2(cost: Cost) -> Iterator[Mutant]:
    function = _function(cost.dz2)
    statement = function.body[-1]
    assert isinstance(statement, ast.Return)
    assert statement.value
    for value in _changes(statement.value, True):
        changed = copy.deepcopy(function)
        changed.body[-1] = ast.Return(value)
        dz2 = _compiled(changed)
        rule = partial(backprop.backward, dz2=dz2)
        yield Mutant(f"dz2 = {ast.unparse(value)}", ("dz2",), rule)


def _changes(expression: ast.expr, whole: bool) -> Iterator[ast.expr]:
    """Every expression that differs from this one in one place."""
    original = ast.unparse(expression)
    nodes = list(ast.walk(expression))
    for index, node in enumerate(nodes):
        for other in _replacements(node):
            if other != ast.unparse(node):
                changed = copy.deepcopy(expression)
                place = list(ast.walk(changed))[index]
                yield _replaced(changed, place, ast.parse(other, mode="eval").body)
    for pattern in WHOLE if whole else []:
        yield ast.parse(pattern.format(original), mode="eval").body


def _replacements(node: ast.AST) -> Iterator[str]:
    """What may stand in place of one node, as source."""
    if isinstance(node, ast.BinOp):
        left, right = f"({ast.unparse(node.left)})", f"({ast.unparse(node.right)})"
        yield from (left, right)
        yield ast.unparse(ast.BinOp(node.right, node.op, node.left))
        for operator in OPERATORS[type(node.op)]:
            yield ast.unparse(ast.BinOp(node.left, operator, node.right))
    elif isinstance(node, ast.Attribute) and node.attr == "T":
        yield ast.unparse(node.value)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in VARIABLES:
        yield from VARIABLES[node.id]
        if node.id not in ("m",):
            yield f"{node.id}.T"
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield from (str(node.value + 1), str(node.value - 1))
    elif isinstance(node, ast.Attribute) and node.attr == "sum":
        yield from (
            f"{ast.unparse(node.value)}.{name}" for name in ("mean", "amax", "prod", "cumsum")
        )
    elif isinstance(node, ast.Call) and node.keywords:
        yield f"{ast.unparse(node.func)}()"
        yield f"{ast.unparse(node.func)}(dim=0, keepdim=True)"
        yield f"{ast.unparse(node.func)[:-4]}[:-1].sum(dim=0)"


def _replaced(tree: ast.expr, place: ast.AST, other: ast.expr) -> ast.expr:
    """The tree with another node in this place."""

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            return other if node is place else self.generic_visit(node)

    return Replace().visit(tree)


def _function(source: Callable[..., Any]) -> ast.FunctionDef:
    """The syntax tree of a function without its docstring."""
    function = ast.parse(inspect.getsource(source)).body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = function.body[1:]
    return function


def _planted(
    cost: Cost,
    function: ast.FunctionDef,
    position: int,
    statements: list[Any],
    lines: tuple[str, ...],
    text: str = "",
) -> Mutant:
    changed = copy.deepcopy(function)
    changed.body[position : position + 1] = statements
    text = text or ast.unparse(statements[0])
    return Mutant(text, lines, partial(_compiled(changed), dz2=cost.dz2))


def _compiled(function: ast.FunctionDef) -> Callable[..., Any]:
    """The function of a syntax tree, with its source where a traceback looks for it."""
    source = ast.unparse(function)
    name = f"<mutant {hash(source)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace = dict(vars(backprop))
    exec(compile(source, name, "exec"), namespace)
    return namespace[function.name]


def main() -> None:
    """Print the verdict on every mutant, under both costs."""
    for cost, name in ((cross_entropy, "cross-entropy"), (quadratic, "quadratic")):
        for mutant in mutants(cost):
            report = audit_probes(mutant.rule, cost, torch.float64)
            verdict = "SURVIVES" if report.ok else " ".join(report.wrong)
            exact = "" if report.wrong == mutant.lines else f" (should be {mutant.lines})"
            print(f"{name:14s} {mutant.text:60s} {verdict}{exact}")


if __name__ == "__main__":
    main()
