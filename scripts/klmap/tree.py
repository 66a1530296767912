"""The models as a tree: average linkage on KL, written and read as Newick."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from klmap.errors import InputError
from klmap.files import write_text
from klmap.store import Distances

_TOKEN = re.compile(r"\s*('(?:[^']|'')*'|[(),;:]|[^\s(),;:']+)")


@dataclass
class Node:
    """A leaf, which has a name, or a join of two subtrees.

    Attributes:
        name: the model of a leaf; empty for a join.
        height: half the mean KL, in bits per byte, between the two subtrees of a join; 0 for a
            leaf. The way along the tree from one leaf to another is then their mean KL.
        children: the subtrees.
    """

    name: str = ""
    height: float = 0.0
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """This node and all below it, children after their parent, in the order of drawing."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    def leaves(self) -> list[str]:
        """The models from top to bottom."""
        return [node.name for node in self.walk() if not node.children]


def build(distances: Distances, source: str = "kl.h5") -> Node:
    """Average linkage on KL (klmap's choice; the papers publish none).

    The two sides of every join are turned so that neighbouring leaves are as near as possible.

    Args:
        distances: with all pairs.
        source: the file's name, for the message.

    Raises:
        InputError: only neighbours are stored, because there are more models than the limit.
    """
    if distances.kl is None:
        raise InputError(
            f"{source}: holds only the neighbours of its {len(distances.model)} models, and a tree "
            "needs all pairs; raise map.dense_limit in config.yaml above the number of models"
        )
    nodes = [Node(name=name) for name in distances.model]
    if len(nodes) == 1:
        return nodes[0]
    condensed = squareform(np.asarray(distances.kl, np.float64), checks=False)
    linkage = hierarchy.optimal_leaf_ordering(hierarchy.average(condensed), condensed)
    for left, right, height, _ in linkage:
        nodes.append(Node(height=height / 2, children=[nodes[int(left)], nodes[int(right)]]))
    return nodes[-1]


def newick(root: Node) -> str:
    """The tree as Newick with branch lengths in bits per byte; every name is quoted."""
    text: dict[int, str] = {}
    for node in reversed(list(root.walk())):
        if node.children:
            inner = ",".join(
                f"{text.pop(id(child))}:{max(node.height - child.height, 0):.9g}"
                for child in node.children
            )
            text[id(node)] = f"({inner})"
        else:
            quoted = node.name.replace("'", "''")
            text[id(node)] = f"'{quoted}'"
    return f"{text[id(root)]};"


def parse(text: str, source: str = "tree.nwk") -> Node:
    """Read what :func:`newick` writes.

    Raises:
        InputError: the text is not a Newick tree with branch lengths.
    """
    stack: list[Node] = [Node()]
    lengths: dict[int, float] = {}
    position = 0
    try:
        while True:
            found = _TOKEN.match(text, position)
            if found is None:
                raise ValueError(f"cannot read {text[position : position + 20]!r}")
            token, position = found[1], found.end()
            if token == "(":
                child = Node()
                stack[-1].children.append(child)
                stack.append(child)
            elif token == ",":
                stack.pop()
                child = Node()
                stack[-1].children.append(child)
                stack.append(child)
            elif token == ")":
                stack.pop()
            elif token == ":":
                number = _TOKEN.match(text, position)
                lengths[id(stack[-1])] = float(number[1] if number else "")
                position = number.end() if number else position
            elif token == ";":
                break
            else:
                stack[-1].name = token[1:-1].replace("''", "'") if token[0] == "'" else token
        if len(stack) != 1:
            raise ValueError("unbalanced parentheses")
    except (ValueError, IndexError) as error:
        raise InputError(f"{source}: not a Newick tree ({error}); remove it and run again") from (
            None
        )
    root = stack[0]
    for node in reversed(list(root.walk())):
        if node.children:
            node.height = max(child.height + lengths.get(id(child), 0) for child in node.children)
    return root


def write_tree(path: Path, root: Node) -> None:
    """Write tree.nwk."""
    write_text(path, newick(root) + "\n")


def read_tree(path: Path) -> Node:
    """Read tree.nwk.

    Raises:
        InputError: the file is missing or not a Newick tree.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return parse(path.read_text(encoding="utf-8"), str(path))
