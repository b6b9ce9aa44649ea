"""Equations as a table and as a graph, read from the docstring of `handgrad.backprop`."""

# pyright: reportAttributeAccessIssue=false
# Protocol buffers make their classes when they are imported.

import re
from typing import NamedTuple

from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

from handgrad import backprop

GIVEN = {
    "X": "(m, n_x)",
    "Y": "(m, n_y)",
    "W1": "(n_h, n_x)",
    "b1": "(n_h,)",
    "W2": "(n_y, n_h)",
    "b2": "(n_y,)",
}
LINE = re.compile(r"^ {4}(\w+) += (.+?) {2,}\1 += (.+?) {2,}(\(.+\))$", re.MULTILINE)


class _Equation(NamedTuple):
    """Holds one line of forward or backward."""

    name: str
    textbook: str  # one example a column
    here: str  # one example a row
    shape: str


def lines(cost: str) -> list[_Equation]:
    """Return the ten lines of forward and backward, with the dz2 of the cost."""
    found = [_Equation(*parts) for parts in LINE.findall(backprop.__doc__ or "")]
    if cost == "quadratic":
        said = (backprop.quadratic_dz2.__doc__ or "").partition(",")[0].partition(" = ")[2]
        found = [
            line._replace(textbook=said, here=said) if line.name == "dz2" else line
            for line in found
        ]
    return found


def table(cost: str, sizes: dict[str, int]) -> str:
    """Return the equations as a Markdown table.

    Args:
        cost: "cross_entropy" or "quadratic".
        sizes: of m, n_x, n_h and n_y.
    """
    rows = [
        f"| `{e.name} = {e.textbook}` | `{e.name} = {e.here}` | `{e.shape}` |" for e in lines(cost)
    ]
    here = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    return "\n".join(
        [
            f"{here}. dz belongs to one example's loss, dW and db to the mean over the m examples.",
            "",
            "| textbook: an example is a column | here: an example is a row | shape here |",
            "|---|---|---|",
            *rows,
        ]
    )


def graph(cost: str, sizes: dict[str, int]) -> GraphDef:
    """Return the graph in which each equation is a node, fed by the names on its right side."""
    steps = lines(cost)
    known = [*GIVEN, *(line.name for line in steps)]
    nodes = [_node(name, "given", [], shape, sizes) for name, shape in GIVEN.items()]
    for line in steps:
        feeding = [name for name in known if re.search(rf"\b{name}\b", line.here)]
        nodes.append(_node(line.name, line.here, feeding, line.shape, sizes))
    return GraphDef(node=nodes)


def _node(
    name: str, operation: str, feeding: list[str], shape: str, sizes: dict[str, int]
) -> NodeDef:
    """Return the node of one quantity, with its shape on the edges that leave it."""
    axes = [TensorShapeProto.Dim(size=sizes[axis]) for axis in re.findall(r"\w+", shape)]
    shapes = AttrValue(list=AttrValue.ListValue(shape=[TensorShapeProto(dim=axes)]))
    said = AttrValue(s=f"{name} = {operation}".encode())
    return NodeDef(
        name=name,
        op=operation,
        input=feeding,
        attr={"_output_shapes": shapes, "equation": said},
    )
