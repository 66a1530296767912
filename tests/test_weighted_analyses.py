"""Analyses of a selection: what its texts stand for decides, not how many they are.

The oracle is a reference in which every text occurs several times. A selection that keeps one of
each, and counts it that many times, has lost nothing: all that is computed of it must be what is
computed of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text as Word

from klmap import (
    axes,
    benchmarks,
    code_lengths,
    contrast,
    figure_axes,
    figure_contrast,
    figure_leakage,
    files,
    geometry,
    kernels,
    leakage,
    models_table,
    prediction,
    split,
    store,
)
from klmap.arrays import Floats, Ints
from klmap.benchmarks import Benchmarks
from klmap.contrast import Contrast
from klmap.design import Design
from klmap.groups import Groups
from klmap.prediction import Settings
from klmap.prediction_files import CONTROL
from klmap.texts import Text
from tests.mapfiles import drawn, everything, selected
from tests.mapfiles import models as described
from tests.release import make_release, write_results

BYTES = 700.0
DOMAINS = ("code", "prose", "legal")
GROUPS = [
    Groups("pair", (4,), (7,)),
    Groups("groups", (0, 2, 3, 11), (5, 6, 10)),
    Groups("within", (1, 2, 5, 8)),
]


@dataclass(frozen=True)
class Both:
    """A reference and a selection of it.

    Attributes:
        reference: of N texts.
        chosen: of the same models and d of the texts.
        index: (N,) which chosen text each text of the reference is.
        times: (d,) how many texts of the reference each chosen text is.
    """

    reference: store.MatrixFile
    chosen: store.MatrixFile
    index: Ints
    times: Floats


def made(loglik: Floats, n_bytes: Ints, domain: list[str], quantile: float = 0.02) -> store.Matrix:
    threshold = geometry.clip_threshold(loglik, quantile)
    q = geometry.double_centre(loglik, threshold).astype(np.float32)
    names = [f"org--model-{row:04d}" for row in range(len(loglik))]
    return store.Matrix(loglik, q, names, domain, n_bytes, quantile, threshold, BYTES, "0" * 64)


def single(models: int = 24, texts: int = 60, seed: int = 0) -> tuple[Floats, Ints, list[str]]:
    """Log-likelihoods, sizes and domains of texts that occur once."""
    rng = np.random.default_rng(seed)
    n_bytes = rng.integers(300, 1024, texts).astype(np.int32)
    place = rng.normal(size=(models, 4)) * [4, 3, 2, 1]
    loglik = -0.7 * n_bytes + 8 * place @ rng.normal(size=(4, texts))
    loglik += rng.normal(0, 3, loglik.shape) + rng.normal(0, 9, (models, 1))
    return loglik, n_bytes, [DOMAINS[text % 3] for text in range(texts)]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    loglik, n_bytes, domain = single()
    times = np.random.default_rng(1).integers(1, 5, len(domain))
    index = np.repeat(np.arange(len(domain)), times)
    reference = made(loglik[:, index], n_bytes[index], [domain[text] for text in index])
    design = Design(np.sqrt(times), np.zeros(len(times)), np.ones(len(times)), len(index))
    chosen = selected(reference, design, np.cumsum(times) - 1)
    with ExitStack() as stack:
        opened = []
        for name, matrix in (("reference", reference), ("chosen", chosen)):
            store.write_matrix(tmp_path / f"{name}.h5", matrix)
            opened.append(stack.enter_context(store.open_matrix(tmp_path / f"{name}.h5")))
        yield Both(opened[0], opened[1], index, times.astype(np.float64))


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Word))  # type: ignore[attr-defined]


def test_parts_of_domains_are_those_of_all_texts(both: Both) -> None:
    first, second = np.triu_indices(24, 1)
    domains = split.domains_of(both.chosen.domain)
    same = split.Domains(
        domains.names, domains.code[both.index], tuple(np.bincount(domains.code[both.index]))
    )
    expected = split.parts(both.reference, first, second, same)
    found = split.parts(both.chosen, first, second, domains)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    in_blocks = split.parts(both.chosen, first, second, domains, block_bytes=8 * 24 * 7)
    np.testing.assert_allclose(in_blocks, expected, rtol=1e-10)
    assert sum(domains.sizes) == 60


@pytest.mark.parametrize("replacement", [True, False])
def test_parts_of_domains_add_up_to_the_kl_of_the_selection(
    tmp_path: Path, replacement: bool
) -> None:
    reference = made(*single(12, 200))
    chances = np.square(reference.coordinates).sum(axis=0)
    design, index = drawn(chances, 70, np.random.default_rng(2), replacement)
    store.write_matrix(tmp_path / "matrix.h5", selected(reference, design, index))
    first, second = np.triu_indices(12, 1)
    with store.open_matrix(tmp_path / "matrix.h5") as matrix:
        parts = split.parts(matrix, first, second)
        q = geometry.double_centre(matrix.loglik(0, 12), matrix.clip_threshold, design)
        pairs = contrast.measure(
            matrix, [Groups("x", (i,), (j,)) for i, j in zip(first, second, strict=True)]
        )
    kl, se = geometry.pairwise_kl(q, BYTES, design)
    np.testing.assert_allclose(parts.sum(axis=1), kl[first, second], rtol=1e-10)
    np.testing.assert_allclose([item.kl for item in pairs], kl[first, second], rtol=1e-10)
    np.testing.assert_allclose([item.se for item in pairs], se[first, second], rtol=1e-5)


def test_code_lengths_are_those_of_all_texts(both: Both) -> None:
    domains = split.domains_of(both.chosen.domain)
    same = split.Domains(domains.names, domains.code[both.index], ())
    np.testing.assert_allclose(
        code_lengths.by_domain(both.chosen, domains),
        code_lengths.by_domain(both.reference, same),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        code_lengths.sizes(both.chosen, domains), code_lengths.sizes(both.reference, same)
    )


def test_suspicion_of_leakage_is_that_of_all_texts(both: Both) -> None:
    rng = np.random.default_rng(3)
    scores = Benchmarks(["score"], rng.uniform(30, 70, (24, 1)))
    means = both.reference.loglik(0, 24).sum(axis=1) / both.reference.n_bytes.sum() * BYTES
    rows = [
        replace(model, mean_loglik=float(mean), bits_per_byte=float(-mean / BYTES / math.log(2)))
        for model, mean in zip(described(24), means, strict=True)
    ]
    expected = leakage.find(both.reference, rows, scores)
    found = leakage.find(both.chosen, rows, scores)
    np.testing.assert_allclose(found.overall.studentised, expected.overall.studentised, rtol=1e-6)
    order = [expected.names.index(name) for name in found.names]
    np.testing.assert_allclose(found.studentised, expected.studentised[:, order], rtol=1e-6)
    assert found.texts == (20, 20, 20)
    assert "stand for all" in words(figure_leakage.draw(found, rows, "60 of the 150 texts"))
    assert "stand for all" not in words(figure_leakage.draw(expected, rows, "150 texts"))


@pytest.mark.parametrize("features", kernels.FEATURES)
def test_products_and_distances_are_those_of_all_texts(both: Both, features: str) -> None:
    rows, others = np.arange(0, 24, 2), np.arange(1, 24, 2)
    expected = kernels.read(both.reference, features, rows)
    found = kernels.read(both.chosen, features, rows)
    # Coordinates are stored in single precision.
    near = {"rtol": 1e-5, "atol": 0.05} if features == "Q" else {"rtol": 1e-9, "atol": 1e-6}
    np.testing.assert_allclose(found.gram, expected.gram, **near)
    kl = geometry.pairwise_kl(
        geometry.double_centre(both.reference.loglik(0, 24), both.reference.clip_threshold), BYTES
    )[0]
    np.testing.assert_allclose(found.kl(rows), kl[np.ix_(rows, rows)], rtol=1e-5, atol=1e-7)
    (products, apart), (same, same_apart) = (
        next(kernel.cross(others, rows)) for kernel in (found, expected)
    )
    np.testing.assert_allclose(products, same, **near)
    np.testing.assert_allclose(apart, same_apart, rtol=1e-5)
    np.testing.assert_allclose(apart, kl[np.ix_(others, rows)], rtol=1e-5)


def test_predictions_are_those_of_all_texts(both: Both) -> None:
    rng = np.random.default_rng(4)
    q = both.reference.coordinates(0, 24).astype(np.float64)
    scores = 50 + q @ rng.normal(size=(q.shape[1], 2)) / np.abs(q).mean() / 20
    scores[20:, 1] = np.nan
    settings = Settings(folds=3, seeds=2)
    expected, found = (
        prediction.predict(matrix, described(24), Benchmarks(["one", "two"], scores), settings)
        for matrix in (both.reference, both.chosen)
    )
    assert [row.pearson for row in found.accuracy] == pytest.approx(
        [row.pearson for row in expected.accuracy], abs=1e-5
    )
    pairs = zip(found.predictions, expected.predictions, strict=True)
    for one, other in pairs:
        assert (one.model, one.task, one.how, one.far) == (
            other.model, other.task, other.how, other.far
        )  # fmt: skip
        assert one.predicted == pytest.approx(other.predicted, abs=1e-3)
        assert one.distance == pytest.approx(other.distance, rel=1e-4)


@pytest.mark.parametrize("exact", [True, False])
def test_axes_are_those_of_all_texts_and_loadings_those_of_the_texts_themselves(
    both: Both, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exact:
        monkeypatch.setattr(axes, "EXACT_MODELS", 1)
    expected, found = axes.find(both.reference, 4), axes.find(both.chosen, 4)
    np.testing.assert_allclose(found.total, expected.total, rtol=1e-5)
    np.testing.assert_allclose(found.variance[:4], expected.variance[:4], rtol=1e-4)
    np.testing.assert_allclose(found.points, expected.points, atol=1e-3)
    np.testing.assert_allclose(found.loadings[both.index], expected.loadings, atol=1e-3)
    domains = split.domains_of(both.chosen.domain)
    same = split.Domains(
        domains.names, domains.code[both.index], tuple(np.bincount(domains.code[both.index]))
    )
    for some, wanted in zip(
        axes.domain_shares(found, domains), axes.domain_shares(expected, same), strict=True
    ):
        np.testing.assert_allclose(some, wanted, atol=2e-3)
    np.testing.assert_allclose(axes.domain_shares(found, domains)[0].sum(axis=1), 1, rtol=1e-6)


def test_a_domain_whose_texts_count_unevenly_has_fewer_texts_for_its_mean() -> None:
    domains = split.domains_of(["even"] * 4 + ["uneven"] * 3)
    weight = np.sqrt([2.0, 2, 2, 2, 9, 1, 1])
    design = Design(weight, np.zeros(7), np.ones(7), 19)
    found = axes.Axes(np.zeros((2, 1)), np.zeros((7, 1)), np.zeros(1), 1.0, True)
    assert axes.effective_sizes(found, domains).tolist() == [4, 3]
    sizes = axes.effective_sizes(replace(found, design=design), domains)
    assert sizes == pytest.approx([4, 121 / 83])


def test_a_contrast_is_that_of_all_texts_and_its_parts_those_of_the_texts_themselves(
    both: Both,
) -> None:
    wanted = contrast.measure(both.reference, GROUPS)
    domains = split.domains_of(both.chosen.domain)
    same = split.Domains(
        domains.names, domains.code[both.index], tuple(np.bincount(domains.code[both.index]))
    )
    for found, expected in zip(contrast.measure(both.chosen, GROUPS), wanted, strict=True):
        np.testing.assert_allclose(found.parts[both.index], expected.parts, rtol=1e-9)
        assert found.kl == pytest.approx(expected.kl)
        assert found.kl_between == pytest.approx(expected.kl_between)
        assert found.texts_for_half == expected.texts_for_half
        parts = {part.domain: part for part in contrast.by_domain(expected, same)}
        for part in contrast.by_domain(found, domains):
            other = parts[part.domain]
            assert part.texts == 20
            assert (part.kl, part.share, part.text_share, part.ratio) == pytest.approx(
                (other.kl, other.share, other.text_share, other.ratio)
            )
            assert part.between == pytest.approx(other.between)
            assert part.mean_difference == pytest.approx(other.mean_difference)


def test_a_selection_of_all_texts_is_no_selection(tmp_path: Path) -> None:
    plain = made(*single())
    results: list[list[Contrast]] = []
    for name, matrix in (
        ("plain", plain),
        ("all", selected(plain, everything(60), np.arange(60))),
    ):
        store.write_matrix(tmp_path / f"{name}.h5", matrix)
        with store.open_matrix(tmp_path / f"{name}.h5") as file:
            results.append(contrast.measure(file, GROUPS))
    domains = split.domains_of(plain.domain)
    for found, expected in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(found.parts, expected.parts, rtol=1e-10)
        assert found.se == pytest.approx(expected.se)
        assert found.texts_for_half == expected.texts_for_half
        pairs = zip(
            contrast.by_domain(found, domains), contrast.by_domain(expected, domains), strict=True
        )
        for part, other in pairs:
            assert vars(part) == {
                name: value if isinstance(value, str) or value is None else pytest.approx(value)
                for name, value in vars(other).items()
            }


@pytest.mark.parametrize("replacement", [True, False])
def test_errors_of_domains_hold_the_choice_of_the_texts_and_the_texts_themselves(
    replacement: bool,
) -> None:
    rng = np.random.default_rng(5)
    found: list[list[tuple[float, float]]] = []
    errors: list[list[tuple[float, float]]] = []
    for _ in range(400):
        code = np.where(rng.random(600) < 0.15, 1, 0)
        spread = np.exp(rng.normal(3, 0.5, 600)) * (1 + code)
        loglik = rng.normal(size=(2, 600)) * spread + 6 * code * np.array([[1], [0]])
        design, index = drawn(spread**2, 150, rng, replacement)
        matrix = InSight(loglik[:, index], design, [f"d{number}" for number in code[index]])
        (item,) = contrast.measure(matrix, [Groups("x", (0,), (1,))])
        parts = sorted(
            contrast.by_domain(item, split.domains_of(matrix.domain)), key=lambda part: part.domain
        )
        found.append([(part.kl, part.mean_difference or 0.0) for part in parts])
        errors.append([(part.se, part.mean_difference_se or 0.0) for part in parts])
    ratio = np.sqrt(np.square(errors).mean(axis=0)) / np.std(found, axis=0)
    assert (np.abs(ratio[:, 0] - 1) < 0.15).all(), ratio
    # A mean difference is relative to all texts, of which the other domain is most.
    assert abs(ratio[1, 1] - 1) < 0.2, ratio


@dataclass(frozen=True)
class InSight:
    """Two models on the texts of a selection."""

    values: Floats
    design: Design | None
    domain: list[str]
    clip_threshold: float = -1e9
    mean_bytes: float = BYTES
    model: tuple[str, ...] = ("a", "b")

    def loglik(self, begin: int, end: int) -> Floats:
        return self.values[begin:end]


def test_half_of_a_kl_is_told_in_texts_of_the_reference() -> None:
    design = Design(np.sqrt([4.0, 10, 2]), np.zeros(3), np.ones(3), 16)
    found = Contrast(Groups("x", (0,), (1,)), np.array([1.0, 1, 5]), 0.1, None, None, design)
    # Of 24, 10 are in the two texts like the third, and 2 more in two of the fourteen others.
    assert found.kl == pytest.approx(24)
    assert found.texts_for_half == 4
    alone = replace(found, parts=np.array([0.0, 0, 5]))
    assert alone.texts_for_half == 1
    assert replace(found, parts=np.zeros(3)).texts_for_half == 0


def test_the_table_of_texts_says_how_many_each_stands_for_and_cumulates_these(
    both: Both, tmp_path: Path
) -> None:
    texts = [Text(index, "some text", name, 9) for index, name in enumerate(both.chosen.domain)]
    contrast.write_texts(tmp_path / "texts.tsv", contrast.measure(both.chosen, GROUPS), texts, 1000)
    rows = [row for row in files.read_tsv(tmp_path / "texts.tsv") if row["comparison"] == "groups"]
    assert list(rows[0])[-2:] == ["stands_for", "text"]
    parts = [float(row["kl"]) for row in rows]
    assert parts == sorted(parts, reverse=True)
    for row in rows:
        assert float(row["stands_for"]) == pytest.approx(both.times[int(row["index"])])
    carried = np.cumsum([float(row["share"]) * float(row["stands_for"]) for row in rows])
    assert [float(row["cumulative"]) for row in rows] == pytest.approx(carried.tolist(), rel=1e-4)
    assert carried[-1] == pytest.approx(1, rel=1e-4)


def test_figures_say_how_many_of_how_many_texts_and_what_the_error_bars_hold(both: Both) -> None:
    domains = split.domains_of(both.chosen.domain)
    found = contrast.measure(both.chosen, GROUPS)
    said = words(figure_contrast.draw(found, domains, "pile-2k"))
    total = len(both.index)
    assert f"60 of the {total} texts (“pile-2k”)" in said
    assert f"half of it in about {found[0].texts_for_half} of {total} texts" in said
    assert "and their choice" in " ".join(said.split())
    same = split.domains_of(both.reference.domain)
    whole = words(figure_contrast.draw(contrast.measure(both.reference, GROUPS), same, "pile"))
    assert "choice" not in whole
    texts = [Text(index, "some text", name, 9) for index, name in enumerate(both.chosen.domain)]
    shown = figure_axes.Described(
        axes.find(both.chosen, 4), described(24), domains, texts, "pile-2k"
    )
    for figure in (figure_axes.draw_axes(shown), figure_axes.draw_variance(shown)):
        assert f"24 models · 60 of the {total} texts (“pile-2k”)" in words(figure)
        assert "The chosen texts stand for all" in words(figure)


@pytest.mark.parametrize("replacement", [True, False])
def test_half_of_the_texts_predict_the_scores_of_a_release_about_as_well(
    tmp_path: Path, replacement: bool
) -> None:
    release = make_release(tmp_path / "files", models=120, texts=600)
    folder = write_results(release, tmp_path / "published")
    reference = store.read_matrix(folder / "matrix.h5")
    chances = np.square(reference.coordinates).sum(axis=0)
    count = 480 if replacement else 300
    design, index = drawn(chances, count, np.random.default_rng(6), replacement)
    assert 280 <= len(index) <= 320
    store.write_matrix(tmp_path / "chosen.h5", selected(reference, design, index))
    rows = models_table.read_models(folder / "models.tsv", reference.model)
    scores = benchmarks.read_benchmarks([folder / "benchmarks.tsv"], rows).of(["ARC", "GSM8K"])
    settings = Settings(folds=5, seeds=1, curve=False)
    pearson = []
    for path in (folder / "matrix.h5", tmp_path / "chosen.h5"):
        with store.open_matrix(path) as matrix:
            found = prediction.predict(matrix, rows, scores, settings)
        rows_of_tasks = [row for row in found.accuracy if row.split and row.task != CONTROL]
        pearson.append([row.pearson for row in rows_of_tasks])
    whole, half = np.array(pearson)
    assert len(whole) == 2 * 2 * 3
    assert (half > whole - 0.03).all(), (whole, half)
