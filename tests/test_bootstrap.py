from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from klmap import bootstrap, geometry, tree
from klmap.errors import InputError
from klmap.store import Distances, Matrix

BYTES = 700.0


def matrix_of(loglik: geometry.Floats, threshold: float = -1e9) -> Matrix:
    return Matrix(
        loglik,
        geometry.double_centre(loglik, threshold).astype(np.float32),
        [f"m{row}" for row in range(len(loglik))],
        ["all"] * loglik.shape[1],
        np.full(loglik.shape[1], int(BYTES), np.int32),
        0.02,
        threshold,
        BYTES,
        "a" * 64,
    )


def random_loglik(models: int, texts: int, seed: int = 0) -> geometry.Floats:
    rng = np.random.default_rng(seed)
    return np.asarray(-560 + rng.normal(0, 30, (models, texts)) * rng.uniform(0.2, 3, texts))


def test_a_replicate_equals_computing_everything_anew_on_the_drawn_texts() -> None:
    """Clipped at the map's threshold, which lies between the values here, not at its own."""
    loglik = random_loglik(12, 400)
    matrix = matrix_of(loglik, float(np.quantile(loglik, 0.05)))
    found = list(bootstrap.replicates(matrix, 3, seed=7))
    assert len(found) == 3
    for replicate, kl in enumerate(found):
        drawn = np.repeat(np.arange(400), bootstrap.draw(400, 7, replicate))
        assert len(drawn) == 400
        anew = geometry.double_centre(loglik[:, drawn], matrix.clip_threshold)
        expected, _ = geometry.pairwise_kl(anew, BYTES)
        np.testing.assert_allclose(kl, expected, rtol=1e-11)
        assert (kl == kl.T).all()
    assert not np.allclose(found[0], found[1])


def test_every_text_once_is_the_map_itself() -> None:
    q = geometry.double_centre(random_loglik(8, 3000), -1e9)
    kl = bootstrap.kl_of_sample(q, np.ones(3000, np.int64), BYTES)
    np.testing.assert_allclose(kl, geometry.pairwise_kl(q, BYTES)[0], rtol=1e-11)


def test_equal_models_stay_equal_and_near_ones_apart() -> None:
    loglik = random_loglik(4, 500)
    loglik[1] = loglik[0] + 12.5
    loglik[3] = loglik[2] + np.random.default_rng(1).normal(0, 1e-3, 500)
    (kl,) = bootstrap.replicates(matrix_of(loglik), 1, seed=0)
    apart = (loglik[2] - loglik[3]) / np.sqrt(2 * BYTES * np.log(2))
    assert kl[0, 1] == 0
    assert kl[2, 3] == pytest.approx(np.repeat(apart, bootstrap.draw(500, 0, 0)).var(), rel=1e-4)


def test_draws_are_fair_and_depend_on_seed_and_number_alone() -> None:
    draws = np.array([bootstrap.draw(1000, 42, number) for number in range(200)])
    assert (draws.sum(axis=1) == 1000).all()
    assert (draws == 0).mean() == pytest.approx(np.exp(-1), abs=0.01)
    assert draws.mean(axis=0).std() == pytest.approx(1 / np.sqrt(200), rel=0.15)
    assert (bootstrap.draw(1000, 42, 17) == draws[17]).all()
    assert (bootstrap.draw(1000, 43, 17) != draws[17]).any()


def test_spread_over_replicates_is_the_standard_error_of_the_pair() -> None:
    matrix = matrix_of(random_loglik(4, 600))
    q = geometry.double_centre(matrix.loglik, matrix.clip_threshold)
    _, se = geometry.pairwise_kl(q, BYTES)
    spread = np.std(list(bootstrap.replicates(matrix, 400, seed=3)), axis=0)
    pairs = np.triu_indices(4, 1)
    np.testing.assert_allclose(spread[pairs], se[pairs], rtol=0.15)


def supported(matrix: Matrix, count: int = 60, seed: int = 1) -> tree.Node:
    q = geometry.double_centre(matrix.loglik, matrix.clip_threshold)
    kl, se = geometry.pairwise_kl(q, BYTES)
    near = geometry.nearest(kl, se, 3)
    root = tree.build(
        Distances(matrix.model, near.index, near.kl, kl, se, "a" * 64, q.shape[1], BYTES)
    )
    tree.add_support(root, matrix.model, bootstrap.replicates(matrix, count, seed))
    return root


def support_of(root: tree.Node) -> dict[frozenset[str], float]:
    return {
        frozenset(node.leaves()): node.support for node in root.walk() if node.support is not None
    }


def test_support_of_a_planted_split_is_one_and_of_chance_low() -> None:
    loglik = random_loglik(16, 800)
    loglik[:8] += np.random.default_rng(5).normal(0, 150, 800)
    found = support_of(supported(matrix_of(loglik)))
    planted = frozenset(f"m{row}" for row in range(8))
    assert found[planted] == 1
    inside = [share for group, share in found.items() if group < planted]
    assert np.mean(inside) < 0.5


def test_support_is_the_share_of_trees_with_the_same_group_of_leaves() -> None:
    """Against sets of names, one tree at a time."""
    matrix = matrix_of(random_loglik(14, 300, seed=2))
    found = support_of(supported(matrix, count=25, seed=9))
    counts = dict.fromkeys(found, 0)
    for kl in bootstrap.replicates(matrix, 25, 9):
        near = geometry.nearest(kl, kl.astype(np.float32), 3)
        again = tree.build(
            Distances(matrix.model, near.index, near.kl, kl, None, "a" * 64, 300, BYTES)
        )
        for node in again.walk():
            group = frozenset(node.leaves())
            if group in counts:
                counts[group] += 1
    assert len(found) == 12
    assert found == {group: count / 25 for group, count in counts.items()}
    assert len(set(found.values())) > 5


def test_leaves_and_the_root_have_no_support() -> None:
    root = supported(matrix_of(random_loglik(6, 100)), count=5)
    assert root.support is None
    for node in root.walk():
        assert (node.support is None) == (node is root or not node.children)


@pytest.mark.parametrize("models", [1, 2])
def test_one_and_two_models_have_nothing_to_support(models: int) -> None:
    root = supported(matrix_of(random_loglik(models, 50)), count=3)
    assert support_of(root) == {}


def test_a_tree_of_other_models_is_refused() -> None:
    with pytest.raises(InputError, match="same models"):
        tree.add_support(tree.Node("a"), ["b"], [])


def test_support_comes_back_from_the_file(tmp_path: Path) -> None:
    root = supported(matrix_of(random_loglik(9, 60)), count=40)
    tree.write_tree(tmp_path / "tree.nwk", root)
    again = support_of(tree.read_tree(tmp_path / "tree.nwk"))
    assert again == {group: pytest.approx(share) for group, share in support_of(root).items()}
    assert min(again.values()) < 1
