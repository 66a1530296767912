"""The models as a tree: average linkage on KL, written and read as Newick."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.files import write_text
from klmap.log import logger
from klmap.store import Distances

WEAK = 0.7
"""Support below this share is called weak, by a custom of phylogenetics (Hillis and Bull 1993)."""

_TOKEN = re.compile(r"\s*('(?:[^']|'')*'|[(),;:]|[^\s(),;:']+)")


@dataclass
class Node:
    """A leaf, which has a name, or a join of two subtrees.

    Attributes:
        name: the model of a leaf; empty for a join.
        height: half the mean KL, in bits per byte, between the two subtrees of a join; 0 for a
            leaf. The way along the tree from one leaf to another is then their mean KL.
        children: the subtrees.
        support: share, 0 to 1, of the bootstrap trees that join the same models, whatever the
            order within; None where it was not computed, and for leaves and the root, of which
            every tree has the same.
    """

    name: str = ""
    height: float = 0.0
    children: list[Node] = field(default_factory=list)
    support: float | None = None

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


def add_support(root: Node, models: Sequence[str], replicates: Iterable[Floats]) -> None:
    """Write into each join how many of the replicates join the same models.

    The bootstrap of trees (Felsenstein 1985, "Confidence limits on phylogenies") for rooted ones:
    a replicate supports a join where average linkage makes a group of the very same models. Groups
    are compared by a random 64-bit number per model, joined by exclusive or.

    Args:
        root: the tree; changed in place.
        models: names in the order of the rows of ``replicates``.
        replicates: (K, K) KL of all pairs, one array after another.

    Raises:
        InputError: the tree has other models.
    """
    row = {name: number for number, name in enumerate(models)}
    if sorted(row) != sorted(root.leaves()):
        raise InputError("kl.h5 and matrix.h5 do not hold the same models; run again")
    bits = np.random.default_rng(len(row)).integers(0, 2**63, len(row)).tolist()
    groups: dict[int, int] = {}
    for node in reversed(list(root.walk())):
        below = [groups[id(child)] for child in node.children]
        groups[id(node)] = _union(below) if below else bits[row[node.name]]
    found = dict.fromkeys(groups.values(), 0)
    count = 0
    for kl in replicates:
        count += 1
        for group in _groups(kl, bits):
            if group in found:
                found[group] += 1
    joins = [node for node in root.walk() if node.children and node is not root]
    for node in joins:
        node.support = found[groups[id(node)]] / count if count else None
    if count and joins:
        weak = sum(1 for node in joins if (node.support or 0) < WEAK)
        logger.info(
            "support by %d bootstrap trees: %d of %d joins are in fewer than %.0f %% of them",
            count, weak, len(joins), 100 * WEAK,
        )  # fmt: skip


def _groups(kl: Floats, bits: Sequence[int]) -> Iterator[int]:
    """The group of models below each join of average linkage."""
    if len(bits) < 2:
        return
    groups = list(bits)
    linkage: npt.NDArray[np.float64] = hierarchy.average(squareform(kl, checks=False))
    for left, right in linkage[:, :2].astype(np.int64).tolist():
        groups.append(groups[left] ^ groups[right])
        yield groups[-1]


def _union(groups: Iterable[int]) -> int:
    result = 0
    for group in groups:
        result ^= group
    return result


def newick(root: Node) -> str:
    """The tree as Newick with branch lengths in bits per byte; every name is quoted.

    Support stands in percent behind the closing bracket of its join, where Newick has the names of
    joins: ``('a':0.1,'b':0.1)97:0.2``.
    """
    text: dict[int, str] = {}
    for node in reversed(list(root.walk())):
        if node.children:
            inner = ",".join(
                f"{text.pop(id(child))}:{max(node.height - child.height, 0):.9g}"
                for child in node.children
            )
            label = "" if node.support is None else f"{100 * node.support:.4g}"
            text[id(node)] = f"({inner}){label}"
        else:
            quoted = node.name.replace("'", "''")
            text[id(node)] = f"'{quoted}'"
    return f"{text[id(root)]};"


def parse(text: str, source: str = "tree.nwk") -> Node:
    """Read what :func:`newick` writes.

    Raises:
        InputError: the text is not a Newick tree with branch lengths, or a join has a label that is
            no percentage.
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
            elif stack[-1].children:
                stack[-1].support = _support(token)
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


def _support(label: str) -> float:
    percent = float(label)
    if not 0 <= percent <= 100:
        raise ValueError(f"support of {label} %")
    return percent / 100


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
