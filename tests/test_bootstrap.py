from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from klmap import bootstrap, geometry, layout, store, tree
from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.layout import Report
from klmap.models_table import Model
from klmap.quality import Quality
from klmap.store import Distances, Matrix

BYTES = 700.0
ROOT = Path(__file__).resolve().parents[1]


def matrix_of(loglik: Floats, threshold: float = -1e9) -> Matrix:
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


def random_loglik(models: int, texts: int, seed: int = 0) -> Floats:
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


def report_of(method: str) -> Report:
    faithful = Quality(10, 1.0, 1.0, 10, 10)
    return Report("a" * 64, method, "euclidean", 30, 42, 250, "", "", faithful, None, "")


def mapped(matrix: Matrix, method: str) -> list[layout.Place]:
    models = [Model(name) for name in matrix.model]
    return layout.place(matrix, models, method=method, iterations=500)  # type: ignore[arg-type]


def of_groups(models: int, texts: int, seed: int = 0) -> Matrix:
    """Three groups of models along a few directions, and what is each model's own."""
    rng = np.random.default_rng(seed)
    where = rng.normal(0, 1, (models, 4)) + 4 * np.eye(4)[np.arange(models) % 3]
    own = rng.normal(0, 25, (models, texts))
    return matrix_of(-600 + 25 * where @ rng.normal(size=(4, texts)) + own)


def sizes(matrix: Matrix, method: str, count: int) -> Floats:
    """(K,) half axes of the ellipses, as shares of the map's width."""
    places = mapped(matrix, method)
    found = bootstrap.ellipses(matrix, places, report_of(method), count, seed=3)
    side = np.ptp(layout.plane_of(places), axis=0).max()
    return np.array([row.major for row in found]) / side


def test_ellipses_shrink_with_the_square_root_of_the_texts() -> None:
    few, many = (sizes(of_groups(12, texts), "pca", 60) for texts in (300, 4800))
    assert np.median(few / many) == pytest.approx(4, rel=0.2)


def test_fewer_texts_make_larger_ellipses_under_tsne_too() -> None:
    """Not exactly so: a layout of fewer texts is another one."""
    few, many = (sizes(of_groups(30, texts), "tsne", 8) for texts in (300, 4800))
    assert np.median(few / many) > 2


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_texts_of_the_map_themselves_move_nothing(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What continuing a layout moves anyway is no uncertainty."""
    monkeypatch.setattr(bootstrap, "draw", lambda texts, *_: np.ones(texts, np.int64))
    matrix = of_groups(12, 200)
    places = mapped(matrix, method)
    for row, place in zip(
        bootstrap.ellipses(matrix, places, report_of(method), 3, 0), places, strict=True
    ):
        assert (row.x, row.y) == (place.x, place.y)
        assert row.major == pytest.approx(0, abs=1e-9)


def test_an_ellipse_holds_95_percent_of_normal_places(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = of_groups(6, 50)
    places = mapped(matrix, "pca")
    rng = np.random.default_rng(1)
    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    clouds = (rng.normal(size=(4000, 6, 2)) * (3, 1)) @ turn.T
    drawn = iter(clouds)
    monkeypatch.setattr(layout, "continued", lambda _, start, *__: start + next(drawn))
    found = bootstrap.ellipses(matrix, places, report_of("pca"), 4000, 0)
    for number, row in enumerate(found):
        assert row.major == pytest.approx(3 * np.sqrt(5.991), rel=0.05)
        assert row.minor == pytest.approx(np.sqrt(5.991), rel=0.05)
        assert row.angle == pytest.approx(np.degrees(0.5), abs=2)
        along = clouds[:, number] @ turn
        inside = (along[:, 0] / row.major) ** 2 + (along[:, 1] / row.minor) ** 2 <= 1
        assert inside.mean() == pytest.approx(0.95, abs=0.015)


def test_pca_is_projected_anew_with_every_sample() -> None:
    matrix = of_groups(7, 150)
    places = mapped(matrix, "pca")
    start = layout.plane_of(places)
    q = geometry.double_centre(matrix.loglik, matrix.clip_threshold)
    clouds = []
    for replicate in range(4):
        drawn = np.repeat(np.arange(150), bootstrap.draw(150, 5, replicate))
        anew = geometry.double_centre(matrix.loglik[:, drawn], matrix.clip_threshold)
        plane = geometry.principal_components(geometry.features(anew, BYTES))[:, :2]
        left, _, right = np.linalg.svd(plane.T @ (start - start.mean(axis=0)))
        clouds.append(plane @ left @ right)
    found = bootstrap.ellipses(matrix, places, report_of("pca"), 4, 5)
    assert q.shape == (7, 150)
    for number, row in enumerate(found):
        values = np.linalg.eigvalsh(np.cov(np.array(clouds)[:, number].T))
        expected = np.sqrt(5.991465 * values)
        assert (row.minor, row.major) == pytest.approx(tuple(expected), rel=1e-5)


@pytest.mark.parametrize("models", [1, 2, 3])
def test_few_models_have_ellipses(models: int) -> None:
    matrix = of_groups(models, 60)
    found = bootstrap.ellipses(matrix, mapped(matrix, "tsne"), report_of("pca"), 5, 0)
    assert len(found) == models
    assert all(np.isfinite((row.major, row.minor, row.angle)).all() for row in found)


def test_ellipses_are_the_same_every_time_and_come_back_from_the_file(tmp_path: Path) -> None:
    matrix = of_groups(8, 80)
    places = mapped(matrix, "tsne")
    for name in ("a", "b"):
        rows = bootstrap.ellipses(matrix, places, report_of("tsne"), 3, 1)
        bootstrap.write_ellipses(tmp_path / name, rows)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    models = [Model(name) for name in reversed(matrix.model)]
    again = bootstrap.read_ellipses(tmp_path / "a", models)
    assert [row.model for row in again] == matrix.model[::-1]
    assert again[0].major == pytest.approx(rows[-1].major, rel=1e-5)
    with pytest.raises(InputError, match="'other' is missing"):
        bootstrap.read_ellipses(tmp_path / "a", [Model("other")])
    (tmp_path / "a").write_text("model\tx\ty\tmajor\tminor\tangle\nm0\t1\t2\tmuch\t3\t4\n")
    with pytest.raises(InputError, match="much"):
        bootstrap.read_ellipses(tmp_path / "a", models)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--dense-limit", "2"], "map.ellipses"), (["--bootstrap", "1"], "map.bootstrap")],
)
def test_what_ellipses_are_not_computed_for(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    store.write_matrix(tmp_path / "matrix.h5", of_groups(3, 20))
    files = ("models", "layout", "layout-report", "ellipses")
    command = [sys.executable, str(ROOT / "scripts" / "ellipses.py"), *arguments]
    command += ["--matrix", str(tmp_path / "matrix.h5")]
    command += [part for name in files for part in (f"--{name}", str(tmp_path / name))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ellipses").exists()
