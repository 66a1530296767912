from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.cluster.hierarchy import average, cophenet, leaves_list
from scipy.spatial.distance import squareform

from klmap import geometry, tree
from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.store import Distances


def distances(names: list[str], seed: int = 0, dense: bool = True) -> Distances:
    points = np.random.default_rng(seed).normal(size=(len(names), 5))
    kl = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    found = geometry.nearest(kl, kl.astype(np.float32), 3)
    return Distances(
        names,
        found.index,
        found.kl,
        kl if dense else None,
        kl.astype(np.float32) if dense else None,
        "a" * 64,
        100,
        700.0,
    )


def cophenetic(root: tree.Node) -> tuple[list[str], Floats]:
    """The mean KL at which each pair of models is joined, in bits per byte.

    Returns:
        The leaves' names, and (K, K) float64 in that order.
    """
    names = root.leaves()
    row = {name: number for number, name in enumerate(names)}
    result = np.zeros((len(names), len(names)))
    for node in root.walk():
        sides = [[row[name] for name in child.leaves()] for child in node.children]
        for number, side in enumerate(sides):
            for other in sides[number + 1 :]:
                result[np.ix_(side, other)] = 2 * node.height
                result[np.ix_(other, side)] = 2 * node.height
    return names, result


HOSTILE = ["a'b", "x@step1+int8", "(y,z):1;", "with space", "[comment]", "ü--µ", "''", "m_n.o-p"]


def test_joins_are_at_the_mean_kl() -> None:
    found = distances([f"m{i}" for i in range(30)])
    names, joined = cophenetic(tree.build(found))
    order = [found.model.index(name) for name in names]
    assert found.kl is not None
    condensed = squareform(found.kl, checks=False)
    expected = squareform(cophenet(average(condensed)))[np.ix_(order, order)]
    np.testing.assert_allclose(joined, expected, rtol=1e-9)


def test_newick_comes_back_with_any_name() -> None:
    root = tree.build(distances(HOSTILE))
    again = tree.parse(tree.newick(root))
    assert again.leaves() == root.leaves()
    assert sorted(again.leaves()) == sorted(HOSTILE)
    np.testing.assert_allclose(cophenetic(again)[1], cophenetic(root)[1], rtol=1e-7, atol=1e-9)


def test_support_is_written_in_percent_behind_the_join() -> None:
    """Names that look like numbers stay names, and joins without support have no label."""
    pair = tree.Node(height=1, children=[tree.Node("97"), tree.Node("1e3")], support=2 / 3)
    other = tree.Node(height=1, children=[tree.Node("a"), tree.Node("0.5")], support=1.0)
    bare = tree.Node(height=2, children=[pair, other])
    root = tree.Node(height=3, children=[bare, tree.Node("100")])
    text = tree.newick(root)
    assert text == "((('97':1,'1e3':1)66.67:1,('a':1,'0.5':1)100:1):1,'100':3);"
    again = tree.parse(text)
    assert again.leaves() == ["97", "1e3", "a", "0.5", "100"]
    shares = [node.support for node in again.walk() if node.children]
    assert shares == [None, None, pytest.approx(2 / 3, abs=1e-4), 1.0]


def test_unquoted_numbers_are_leaves_before_and_support_behind_brackets() -> None:
    root = tree.parse("((97:1,b:1) 12 :1,c:2)88;")
    assert root.leaves() == ["97", "b", "c"]
    assert (root.support, root.children[0].support) == (0.88, 0.12)


def test_path_from_leaf_to_leaf_is_their_mean_kl() -> None:
    found = distances(["a", "b"])
    assert found.kl is not None
    half = f"{found.kl[0, 1] / 2:.9g}"
    assert tree.newick(tree.build(found)) in (
        f"('a':{half},'b':{half});",
        f"('b':{half},'a':{half});",
    )


def test_one_model_is_a_tree_of_one_leaf(tmp_path: Path) -> None:
    tree.write_tree(tmp_path / "tree.nwk", tree.build(distances(["only@step1"])))
    assert (tmp_path / "tree.nwk").read_text() == "'only@step1';\n"
    assert tree.read_tree(tmp_path / "tree.nwk").leaves() == ["only@step1"]


def test_deterministic_and_deep_trees() -> None:
    """A chain of 1,100 joins is deeper than Python's recursion limit."""
    names = [f"m{i:04d}" for i in range(1100)]
    position = 1.5 ** np.arange(1100) / 1.5**1050
    kl = np.abs(position[:, None] - position[None])
    found = distances(names[:2])
    found.model, found.kl = names, kl
    first, second = tree.newick(tree.build(found)), tree.newick(tree.build(found))
    assert first == second
    assert sorted(tree.parse(first).leaves()) == names


def test_neighbouring_leaves_are_near() -> None:
    """The sides of joins are turned so that steps from leaf to leaf are short."""
    found = distances([f"m{i}" for i in range(40)], seed=5)
    assert found.kl is not None
    plain = leaves_list(average(squareform(found.kl, checks=False)))
    order = [found.model.index(name) for name in tree.build(found).leaves()]

    def length(rows: list[int]) -> float:
        assert found.kl is not None
        return float(found.kl[rows[:-1], rows[1:]].sum())

    assert length(order) < length(list(plain))


def test_without_all_pairs_there_is_no_tree() -> None:
    with pytest.raises(InputError, match="dense_limit"):
        tree.build(distances(["a", "b", "c"], dense=False), "results/x/kl.h5")


@pytest.mark.parametrize(
    "text", ["", "(a,b", "(a:1,b:x);", "a));", "(a,b));", "(a:1,b:1)x:1;", "(a:1,b:1)120;"]
)
def test_broken_newick_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tree.nwk").write_text(text)
    with pytest.raises(InputError, match="not a Newick tree"):
        tree.read_tree(tmp_path / "tree.nwk")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        tree.read_tree(tmp_path / "tree.nwk")
