"""How far distances depend on the texts: against KLs of parts that are written out."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.spatial import procrustes
from scipy.stats import pearsonr, spearmanr

from klmap import (
    concordance,
    figure_robustness,
    files,
    geometry,
    models_table,
    robustness,
    split,
    store,
    subsets,
    text_sets,
)
from klmap.arrays import Floats
from klmap.concordance import Agreement
from klmap.errors import InputError
from klmap.robustness import Robustness
from klmap.store import Matrix
from klmap.subsets import Coordinates
from tests import mapfiles

SCRIPT = Path(__file__).parents[1] / "scripts" / "robustness.py"
BYTES = 700.0


def loglik(models: int, texts: int, seed: int = 0, dimensions: int = 3) -> Floats:
    """A few dimensions in which the models differ, and noise of their own."""
    rng = np.random.default_rng(seed)
    places = np.random.default_rng(99).normal(0, 40, (models, dimensions))
    noise = rng.normal(0, 10, (models, texts))
    return np.asarray(-600 + places @ rng.normal(0, 1, (dimensions, texts)) + noise)


def matrix_of(values: Floats, domain: list[str], names: list[str] | None = None) -> Matrix:
    threshold = geometry.clip_threshold(values)
    return Matrix(
        loglik=values,
        coordinates=geometry.double_centre(values, threshold).astype(np.float32),
        model=names or [model.model for model in mapfiles.models(len(values))],
        domain=domain,
        n_bytes=np.full(values.shape[1], int(BYTES), np.int32),
        clip_quantile=0.02,
        clip_threshold=threshold,
        mean_bytes=BYTES,
        texts_sha256="0" * 64,
    )


def written(path: Path, matrix: Matrix) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    store.write_matrix(path / "matrix.h5", matrix)
    models = [
        models_table.Model(name, mean_loglik=-1.0, bits_per_byte=1.0) for name in matrix.model
    ]
    models_table.write_models(path / "models.tsv", models)
    return path / "matrix.h5"


DOMAINS = ["code"] * 50 + ["prose"] * 60 + ["legal"] * 10


def coordinates(models: int = 25, texts: int = 120) -> Coordinates:
    q = matrix_of(loglik(models, texts), ["x"] * texts).coordinates
    return Coordinates(np.ascontiguousarray(q.T), BYTES)


def slow(some: Coordinates, texts: list[int]) -> Floats:
    """KL by some texts: half the variance of the difference, a pair after the other."""
    q = some.points[texts].T.astype(np.float64)
    kl = [[np.var(a - b) / (2 * BYTES * math.log(2)) for b in q] for a in q]
    return np.array(kl)


def nearest(kl: Floats, k: int) -> list[set[int]]:
    order = [[j for j in np.argsort(row, kind="stable") if j != i] for i, row in enumerate(kl)]
    return [{int(j) for j in row[:k]} for row in order]


def check(found: Agreement, first: Floats, second: Floats) -> None:
    upper = np.triu_indices(len(first), 1)
    a, b = first[upper], second[upper]
    assert found.pearson == pytest.approx(pearsonr(a, b).statistic)
    assert found.spearman == pytest.approx(spearmanr(a, b).statistic)
    rms = math.sqrt(((a - b) ** 2).mean()) / math.sqrt((((a + b) / 2) ** 2).mean())
    assert found.rms == pytest.approx(rms)
    assert found.median == pytest.approx(float(np.median(2 * abs(a - b) / (a + b))))
    k = min(10, (len(first) - 1) // 2)
    both = zip(nearest(first, k), nearest(second, k), strict=True)
    assert found.neighbors == pytest.approx(sum(len(x & y) for x, y in both) / (k * len(first)))


def test_kl_of_some_texts_is_what_these_alone_would_give() -> None:
    some = coordinates()
    texts = np.array([3, 5, 7, 8, 30, 100])
    found = some.sums(texts).kl(BYTES)
    np.testing.assert_allclose(found, slow(some, texts.tolist()), rtol=1e-9, atol=1e-12)
    rest = some.sums(np.arange(120)).without(some.sums(texts))
    others = [n for n in range(120) if n not in texts]
    np.testing.assert_allclose(rest.kl(BYTES), slow(some, others), rtol=1e-9, atol=1e-12)


def test_kl_of_all_texts_is_that_of_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "_TEXTS", 17)
    some = coordinates()
    kl, _ = geometry.pairwise_kl(some.points.T.astype(np.float64), BYTES)
    np.testing.assert_allclose(some.sums(np.arange(120)).kl(BYTES), kl, rtol=1e-6)


def test_equal_models_have_no_distance_by_any_texts() -> None:
    some = coordinates()
    some.points[:, 4] = some.points[:, 9]
    total = some.sums(np.arange(120))
    for sums in (total, total.without(some.sums(np.arange(0, 120, 2)))):
        assert sums.kl(BYTES)[4, 9] == 0
        assert (sums.kl(BYTES)[4, :4] > 0).all()


def test_halves_are_compared_with_each_other() -> None:
    some = coordinates(texts=121)
    total = some.sums(np.arange(121))
    found = robustness.halves(some, total, 3, seed=5)
    rng = np.random.default_rng((5, 1))
    for number, half in enumerate(found, start=1):
        first = sorted(rng.permutation(121)[:60].tolist())
        second = [text for text in range(121) if text not in first]
        assert (half.split, half.texts) == (number, 60)
        check(half.agreement, slow(some, first), slow(some, second))
    assert len({half.agreement.pearson for half in found}) == 3


def test_a_domain_left_out_is_compared_with_all_texts() -> None:
    some = coordinates()
    total = some.sums(np.arange(120))
    found = robustness.left_out(some, total, split.domains_of(DOMAINS), seed=5)
    assert [(item.domain, item.texts) for item in found] == [
        ("prose", 60), ("code", 50), ("legal", 10)
    ]  # fmt: skip
    everything = slow(some, list(range(120)))
    for item in found:
        rest = [text for text, name in enumerate(DOMAINS) if name != item.domain]
        check(item.agreement, slow(some, rest), everything)
    assert robustness.left_out(some, total, split.domains_of(["x"] * 120), seed=5) == []


def test_a_domain_of_its_own_kind_changes_more_than_random_texts() -> None:
    values = loglik(25, 120)
    rng = np.random.default_rng(4)
    values[:, 110:] += np.outer(rng.normal(0, 150, 25), rng.normal(0, 1, 10))
    some = Coordinates(np.ascontiguousarray(matrix_of(values, DOMAINS).coordinates.T), BYTES)
    total = some.sums(np.arange(120))
    found = robustness.left_out(some, total, split.domains_of(DOMAINS), seed=5)
    by_name = {item.domain: item for item in found}
    assert by_name["legal"].agreement.spearman < by_name["legal"].spearman - 0.1
    assert by_name["legal"].agreement.neighbors < by_name["legal"].neighbors - 0.1
    assert by_name["prose"].agreement.spearman > by_name["legal"].agreement.spearman


def test_few_texts_are_compared_with_all() -> None:
    some = coordinates(models=12)
    found = robustness.by_number(some, some.sums(np.arange(120)), 3, seed=5)
    assert [item.texts for item in found] == [5, 10, 20, 50, 100]
    everything = slow(some, list(range(120)))
    upper = np.triu_indices(12, 1)
    for item in found:
        rng, off, spearman = np.random.default_rng((5, 3, item.texts)), [], []
        for _ in range(3):
            drawn = slow(some, sorted(rng.choice(120, item.texts, replace=False).tolist()))
            off.append(abs(drawn - everything)[upper] / everything[upper])
            spearman.append(spearmanr(drawn[upper], everything[upper]).statistic)
        assert item.median == pytest.approx(float(np.median(off)), rel=1e-4)
        assert item.q90 == pytest.approx(float(np.quantile(off, 0.9)), rel=1e-4)
        assert item.spearman == pytest.approx(np.mean(spearman))


def test_the_error_of_few_texts_is_what_the_standard_errors_expect() -> None:
    some = coordinates(models=40, texts=1500)
    found = robustness.by_number(some, some.sums(np.arange(1500)), 12, seed=1)
    for item in found:
        if item.texts >= 100:
            assert item.median == pytest.approx(item.expected_median, rel=0.2)
            assert item.q90 == pytest.approx(item.expected_q90, rel=0.2)
    errors = [item.median for item in found]
    assert errors == sorted(errors, reverse=True)
    assert found[-1].neighbors > found[0].neighbors


def test_expected_is_the_quantile_of_a_mixture_of_normals() -> None:
    rng = np.random.default_rng(0)
    sigmas = rng.gamma(2, 1, 400)
    drawn = np.abs(rng.normal(0, 1, (400, 4000)) * sigmas[:, None])
    for share in (0.5, 0.9):
        expected = float(np.quantile(drawn, share))
        assert robustness.expected(sigmas, share) == pytest.approx(expected, rel=0.01)
    assert robustness.expected(np.ones(9), 0.9) == pytest.approx(1.6449, rel=1e-4)
    assert robustness.expected(np.zeros(3), 0.5) == 0


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (10_000, [50, 100, 200, 500, 1000, 2000, 5000]),
        (600, [5, 10, 20, 50, 100, 200, 500]),
        (20, [5, 10]),
        (5, [2]),
        (3, [2]),
        (2, []),
    ],
)
def test_numbers_of_texts_fit_the_set(texts: int, numbers: list[int]) -> None:
    assert robustness.counts(texts) == numbers


def distances(seed: int, models: int = 14) -> tuple[Floats, Floats]:
    points = np.random.default_rng(seed).normal(0, 1, (models, 3))
    return points, np.linalg.norm(points[:, None] - points[None], axis=2)


def test_mantel_is_the_correlation_of_pairs() -> None:
    (_, first), (_, second) = distances(1), distances(2)
    upper = np.triu_indices(14, 1)
    found = concordance.mantel(first, second, seed=0, permutations=99)
    assert found.value == pytest.approx(pearsonr(first[upper], second[upper]).statistic)
    assert found.p > 0.05
    same = concordance.mantel(first, 3 * first, seed=0)
    assert same.value == pytest.approx(1)
    assert same.p == 0.001


def test_p_is_the_share_of_exchanges_that_reach_the_value() -> None:
    """Of four models there are 24 orders, which can all be written out."""
    (_, first), (_, second) = distances(3, 4), distances(8, 4)
    upper = np.triu_indices(4, 1)
    reached = [
        pearsonr(first[upper], second[np.ix_(order, order)][upper]).statistic
        for order in itertools.permutations(range(4))
    ]
    value = pearsonr(first[upper], second[upper]).statistic
    exact = np.mean([other >= value - 1e-12 for other in reached])
    found = concordance.mantel(first, second, seed=0, permutations=4000)
    assert 0.1 < exact < 0.9
    assert found.p == pytest.approx(exact, abs=0.03)


def test_procrustes_is_what_a_rotation_leaves() -> None:
    (first, _), (second, _) = distances(1), distances(2)
    found = concordance.procrustes(first, second, seed=0, permutations=99)
    assert found.value == pytest.approx(math.sqrt(1 - procrustes(first, second)[2]))
    assert found.p > 0.05
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    same = concordance.procrustes(first, 4 * first @ turn + 7, seed=0)
    assert same.value == pytest.approx(1)
    assert same.p == 0.001


def test_procrustes_needs_no_equal_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = distances(1)
    wide = np.pad(first, ((0, 0), (0, 40)))
    assert concordance.procrustes(first, wide, seed=0, permutations=9).value == pytest.approx(1)
    monkeypatch.setattr(concordance, "TESTED", 2)
    assert concordance.procrustes(first, wide, seed=0, permutations=99).p == 0.01


def test_text_sets_are_compared_on_the_models_of_both(tmp_path: Path) -> None:
    first, second = loglik(16, 200, seed=1), loglik(16, 150, seed=2)
    names = [f"m{n:02d}" for n in range(16)]
    own = written(tmp_path / "own", matrix_of(first, ["x"] * 200, names))
    order = np.random.default_rng(0).permutation(16)[:13]
    others = matrix_of(second[order], ["y"] * 150, [names[n] for n in order])
    other = written(tmp_path / "other", others)
    with store.open_matrix(own) as matrix:
        found = text_sets.between(matrix, "other", other, seed=3)
    assert found.models == 13
    common = sorted(order.tolist())
    own_q = matrix_of(first, ["x"] * 200).coordinates[common].astype(np.float64)
    back = np.argsort(order)
    other_q = others.coordinates[back].astype(np.float64)
    kls = [geometry.pairwise_kl(q, BYTES)[0] for q in (own_q, other_q)]
    upper = np.triu_indices(13, 1)
    a, b = (np.sqrt(kl[upper]) for kl in kls)
    assert found.mantel.value == pytest.approx(pearsonr(a, b).statistic, rel=1e-5)
    assert found.mantel_rank == pytest.approx(spearmanr(a, b).statistic)
    flat = [np.pad(geometry.principal_components(q), ((0, 0), (0, 3))) for q in (own_q, other_q)]
    left = procrustes(*flat)[2]
    assert found.procrustes.value == pytest.approx(math.sqrt(1 - left), rel=1e-5)
    assert found.mantel.value > 0.9
    assert (found.mantel.p, found.procrustes.p) == (0.001, 0.001)
    both = zip(nearest(kls[0], 6), nearest(kls[1], 6), strict=True)
    assert found.neighbors == pytest.approx(sum(len(x & y) for x, y in both) / (6 * 13))


def test_two_common_models_are_too_few(tmp_path: Path) -> None:
    own = written(tmp_path / "own", matrix_of(loglik(4, 30), ["x"] * 30, ["a", "b", "c", "d"]))
    far = written(tmp_path / "far", matrix_of(loglik(3, 30), ["x"] * 30, ["a", "d", "e"]))
    with store.open_matrix(own) as matrix:
        found = text_sets.between(matrix, "far", far, seed=0)
    assert found.models == 2
    assert all(map(math.isnan, (found.mantel.value, found.procrustes.p, found.neighbors)))


def test_of_many_models_a_sample_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert subsets.sampled(30, seed=1).tolist() == list(range(30))
    rows = subsets.sampled(30, seed=1, most=8)
    assert len(set(rows.tolist())) == 8
    assert sorted(rows.tolist()) == rows.tolist()
    assert rows.tolist() == subsets.sampled(30, seed=1, most=8).tolist()
    assert rows.tolist() != subsets.sampled(30, seed=2, most=8).tolist()
    values = loglik(30, 60)
    path = written(tmp_path, matrix_of(values, ["x"] * 60))
    monkeypatch.setattr(subsets, "ranges", lambda total, _: ((n, n + 1) for n in range(total)))
    with store.open_matrix(path) as matrix:
        some = Coordinates.read(matrix, rows)
        expected = matrix.coordinates(0, 30)[rows].T
    np.testing.assert_array_equal(some.points, expected)


def test_others_are_names_and_paths() -> None:
    assert text_sets.named(["a=x/matrix.h5", "b=c=d"]) == [
        ("a", Path("x/matrix.h5")), ("b", Path("c=d"))
    ]  # fmt: skip
    for wrong in ("x/matrix.h5", "=x", "a="):
        with pytest.raises(InputError, match=r"NAME=matrix\.h5"):
            text_sets.named([wrong])


def measured(path: Path, others: list[tuple[str, Path]] | None = None) -> Robustness:
    with store.open_matrix(path) as matrix:
        return robustness.measure(matrix, others or [], splits=4, draws=2, seed=1)


def words_of(figure: Figure) -> str:
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in [*axes.texts, *axes.get_yticklabels()]]
        found += [axes.get_title(loc="left"), axes.get_xlabel()]
    return "|".join(found)


@pytest.mark.parametrize("models", [1, 2, 3])
@pytest.mark.parametrize("texts", [2, 3, 20])
@pytest.mark.parametrize("domains", [1, 2])
def test_small_maps_have_tables_and_a_figure(
    tmp_path: Path, models: int, texts: int, domains: int
) -> None:
    labels = [f"d{n % domains}" for n in range(texts)]
    path = written(tmp_path, matrix_of(loglik(models, texts), labels))
    found = measured(path, [("twin", path)])
    robustness.write(tmp_path / "out", found)
    rows = {name: files.read_tsv(tmp_path / "out" / f"{name}.tsv")
            for name in ("halves", "domains", "numbers", "sets")}  # fmt: skip
    assert len(rows["halves"]) == 4
    assert len(rows["domains"]) == (domains if domains > 1 else 0)
    assert len(rows["sets"]) == 1
    assert not any(
        "nan" in cell for table in rows.values() for row in table for cell in row.values()
    )
    words = words_of(figure_robustness.draw(found, "demo"))
    if domains == 1:
        assert "All texts are of one domain" in words
    if models < 3:
        assert "too few distances" in words
    assert "only text set" not in words


def test_equal_models_are_said_to_be_alike(tmp_path: Path) -> None:
    values = np.repeat(loglik(1, 20), 5, axis=0)
    path = written(tmp_path, matrix_of(values, DOMAINS[40:60]))
    figure_robustness.write(tmp_path / "out", measured(path, [("twin", path)]), "demo")
    assert "All models are alike" in words_of(figure_robustness.draw(measured(path), "demo"))


def test_the_figure_shows_what_was_found(tmp_path: Path) -> None:
    path = written(tmp_path / "own", matrix_of(loglik(25, 120), DOMAINS))
    found = measured(path, [("twin", path)])
    words = words_of(figure_robustness.draw(found, "demo"))
    middle = np.median([half.agreement.spearman for half in found.halves])
    assert f"{middle:.3f}" in words
    for said in ("25 models", "120 texts of “demo”", "prose  60", "legal  10", "twin  25"):
        assert said in words
    assert "only text set" in words_of(figure_robustness.draw(measured(path), "demo"))
    many = Robustness(**{**vars(found), "of": 30, "domains": found.domains * 10})
    words = words_of(figure_robustness.draw(many, "demo"))
    assert "25 models of 30, drawn at random" in words
    assert "One domain left out (16 of 30)" in words


def test_the_worst_domain_comes_first(tmp_path: Path) -> None:
    path = written(tmp_path / "own", matrix_of(loglik(25, 120), DOMAINS))
    found = measured(path)
    labels = [text.get_text() for text in
              figure_robustness.draw(found, "demo").axes[1].get_yticklabels()]  # fmt: skip
    worst = min(found.domains, key=lambda item: item.agreement.spearman)
    assert labels[0] == f"{worst.domain}  {worst.texts}"
    assert len(labels) == 3


def test_the_command_writes_the_same_bytes_again(tmp_path: Path) -> None:
    path = written(tmp_path / "own", matrix_of(loglik(15, 60), DOMAINS[:60]))
    other = written(tmp_path / "other", matrix_of(loglik(15, 40, seed=1), ["x"] * 40))
    for name in ("a", "b"):
        done = subprocess.run(
            [
                sys.executable, str(SCRIPT), "--matrix", str(path),
                "--models", str(path.with_name("models.tsv")), "--others", f"other={other}",
                "--splits", "5", "--draws", "2", "--seed", "7", "--folder", str(tmp_path / name),
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    made = sorted(item.name for item in (tmp_path / "a").iterdir())
    assert made == [
        "domains.tsv", "halves.tsv", "numbers.tsv", "robustness.png", "robustness.svg", "sets.tsv",
    ]  # fmt: skip
    for name in made:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    (row,) = files.read_tsv(tmp_path / "a" / "sets.tsv")
    assert (row["other"], row["models"], row["mantel_p"]) == ("other", "15", "0.001")
