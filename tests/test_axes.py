"""Axes: exact components, their ends in texts and domains, correlations with benchmark scores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text as Word
from scipy.stats import pearsonr, spearmanr

from klmap import axes, code_lengths, figure_axes, geometry, models_table, store, style, texts
from klmap.axes import Axes, Correlations
from klmap.benchmarks import Benchmarks
from klmap.files import read_tsv, write_json
from tests.mapfiles import DOMAINS, Folder
from tests.release import make_release, write_results

ROOT = Path(__file__).resolve().parents[1]


def matrix_file(path: Path, loglik: Any, domain: list[str] | None = None) -> Path:
    """A matrix of texts that have 500 bytes each."""
    models, count = loglik.shape
    threshold = geometry.clip_threshold(loglik)
    store.write_matrix(
        path,
        store.Matrix(
            loglik=loglik,
            coordinates=geometry.double_centre(loglik, threshold).astype(np.float32),
            model=[f"org--model-{row:03d}" for row in range(models)],
            domain=domain or [f"d{text % 3}" for text in range(count)],
            n_bytes=np.full(count, 500, np.int32),
            clip_quantile=0.02,
            clip_threshold=threshold,
            mean_bytes=500.0,
            texts_sha256="",
        ),
    )
    return path


def loglik(models: int = 30, count: int = 90, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    place = rng.normal(size=(models, 4)) * [4, 3, 2, 1]
    noise = rng.normal(0, 3, (models, count))
    return -400 + 10 * place @ rng.normal(size=(4, count)) + noise


def find(path: Path, values: Any, count: int = 10, domain: list[str] | None = None) -> Axes:
    with store.open_matrix(matrix_file(path, values, domain)) as matrix:
        return axes.find(matrix, count)


def centred(values: Any) -> Any:
    """Coordinates in the square root of bits per byte, as stored and then exactly centred."""
    q = geometry.double_centre(values, geometry.clip_threshold(values)).astype(np.float32)
    points = geometry.features(q.astype(np.float64), 500.0)
    return points - points.mean(axis=0)


def described(
    found: Axes, domain: list[str], families: int = 3, contents: list[str] | None = None
) -> figure_axes.Described:
    contents = contents or ["some text"] * len(domain)
    return figure_axes.Described(
        axes=found,
        models=[
            models_table.Model(f"org--model-{row:03d}", family=f"family-{row % families}")
            for row in range(len(found.points))
        ],
        domains=code_lengths.told_apart(domain),
        texts=[
            texts.Text(index, text, own, len(text.encode()))
            for index, (text, own) in enumerate(zip(contents, domain, strict=True))
        ],
        name="made up",
    )


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Word))  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", [(30, 90), (40, 20)])
def test_components_are_those_of_a_singular_value_decomposition(tmp_path, shape):
    values = loglik(*shape)
    found = find(tmp_path / "matrix.h5", values)
    points = centred(values)
    left, size, right = np.linalg.svd(points, full_matrices=False)
    variance = size**2 / len(points)
    np.testing.assert_allclose(found.variance, variance[: len(found.variance)], rtol=1e-6)
    np.testing.assert_allclose(found.total, (points**2).sum(axis=1).mean(), rtol=1e-9)
    for number in range(4):
        sign = np.sign(found.points[:, number] @ left[:, number])
        np.testing.assert_allclose(
            found.points[:, number], sign * left[:, number] * size[number], atol=1e-8
        )
        np.testing.assert_allclose(found.loadings[:, number], sign * right[number], atol=1e-7)


def test_places_on_all_axes_have_the_distances_of_the_map(tmp_path):
    values = loglik(12, 60)
    found = find(tmp_path / "matrix.h5", values, count=100)
    assert found.points.shape == (12, 11)
    kl, _ = geometry.pairwise_kl(
        geometry.double_centre(values, geometry.clip_threshold(values)), 500.0
    )
    apart = ((found.points[:, None] - found.points[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(apart, kl, atol=1e-6)
    np.testing.assert_allclose(kl.mean(), 2 * found.total, rtol=1e-6)


def test_components_are_listed_up_to_99_percent_and_marks_are_the_first_to_reach_a_share(tmp_path):
    found = find(tmp_path / "matrix.h5", loglik(), count=2)
    sums = np.cumsum(found.shares)
    assert sums[-1] >= 0.99 > sums[-2]
    for share in (0.5, 0.9, 0.95):
        count = found.reaching(share)
        assert count is not None
        assert sums[count - 1] >= share > ([0, *sums])[count - 1]
    assert found.reaching(0.999999) is None


def test_the_model_farthest_out_is_at_the_high_end_and_of_two_the_first(tmp_path):
    found = find(tmp_path / "matrix.h5", loglik())
    largest = np.abs(found.points).argmax(axis=0)
    assert (found.points[largest, np.arange(found.points.shape[1])] > 0).all()
    for number, values in enumerate((loglik(2, 40), loglik(2, 40)[::-1])):
        pair = find(tmp_path / f"pair{number}.h5", values)
        assert pair.points.shape == (2, 1)
        assert pair.points[0, 0] > 0 > pair.points[1, 0]


def test_very_many_models_have_the_same_axes_from_the_random_projection(tmp_path, monkeypatch):
    values = loglik(200, 300)
    exact = find(tmp_path / "matrix.h5", values, count=3)
    monkeypatch.setattr(axes, "EXACT_MODELS", 199)
    found = find(tmp_path / "matrix.h5", values, count=3)
    assert exact.exact
    assert not found.exact
    np.testing.assert_allclose(found.points, exact.points, atol=1e-3)
    np.testing.assert_allclose(found.loadings, exact.loadings, atol=1e-3)
    np.testing.assert_allclose(found.total, exact.total, rtol=1e-5)
    assert len(found.variance) <= 128


def test_shares_of_the_domains_add_up_and_are_sums_over_their_texts(tmp_path):
    domain = [f"d{text % 3}" for text in range(90)]
    found = find(tmp_path / "matrix.h5", loglik(), domain=domain)
    domains = code_lengths.told_apart(domain)
    shares, means = axes.domain_shares(found, domains)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    for number in range(found.points.shape[1]):
        for place, name in enumerate(domains.names):
            own = found.loadings[[text for text in range(90) if domain[text] == name], number]
            np.testing.assert_allclose(shares[number, place], (own**2).sum())
            np.testing.assert_allclose(means[number, place], own.mean() * np.sqrt(90))


def test_a_planted_domain_stands_at_its_end_of_the_first_axis_with_its_texts(tmp_path):
    rng = np.random.default_rng(3)
    domain = [DOMAINS[text % 3] for text in range(120)]
    code = np.array([name == "code" for name in domain])
    skill = rng.normal(0, 30, 40)
    skill[5] = 200
    values = -400 + skill[:, None] * code + rng.normal(0, 4, (40, 120))
    values[:, 12] += 0.5 * skill
    found = find(tmp_path / "matrix.h5", values, domain=domain)
    assert found.points[:, 0].argmax() == 5
    low, high = axes.at_ends(found.loadings[:, 0], 10)
    assert high[0] == 12
    assert {domain[text] for text in high} == {"code"}
    assert {domain[text] for text in low} <= {"prose", "legal"}
    below, above = figure_axes.ends_in_words(described(found, domain), 0)
    assert above == "code"
    assert "code" not in below


def test_no_text_stands_at_both_ends():
    low, high = axes.at_ends(np.array([0.1, -0.4, 0.2, 0.3, 0.0]), 10)
    assert list(low) == [1, 4]
    assert list(high) == [3, 2]


def test_correlations_are_those_of_the_models_that_have_the_score(tmp_path):
    rng = np.random.default_rng(4)
    values = loglik()
    scores = np.column_stack([rng.normal(size=30), np.full(30, 7.0), rng.normal(size=30)])
    scores[:10, 0] = np.nan
    scores[2:, 2] = np.nan
    with store.open_matrix(matrix_file(tmp_path / "matrix.h5", values)) as matrix:
        found = axes.find(matrix, 4)
        models = [
            models_table.Model(name, mean_loglik=float(row.mean()))
            for name, row in zip(matrix.model, values, strict=True)
        ]
        result = axes.correlate(matrix, models, found, Benchmarks(["a", "same", "two"], scores))
        domain = matrix.domain
    threshold = geometry.clip_threshold(values)
    assert result.features[:2] == ["mean_loglik", "mean_loglik: d0"]
    assert result.features[-4:] == ["axis1", "axis2", "axis3", "axis4"]
    assert result.models[:, 0].tolist() == [20] * 8
    columns = [values.mean(axis=1)]
    for name in ("d0", "d1", "d2"):
        own = [text for text in range(90) if domain[text] == name]
        columns.append(np.maximum(values, threshold)[:, own].mean(axis=1))
    columns += list(found.points.T)
    for row, column in enumerate(columns):
        expected = pearsonr(column[10:], scores[10:, 0]).statistic
        np.testing.assert_allclose(result.pearson[row, 0], expected, atol=1e-9)
        expected = spearmanr(column[10:], scores[10:, 0]).statistic
        np.testing.assert_allclose(result.spearman[row, 0], expected, atol=1e-9)
    assert np.isnan(result.pearson[:, 1:]).all()
    axes.write_correlations(tmp_path / "correlations.tsv", result)
    cells = read_tsv(tmp_path / "correlations.tsv")
    assert [row["pearson"] for row in cells if row["task"] != "a"] == [""] * 16


def command(folder: Path, results: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, str(ROOT / "scripts" / "axes.py"),
            "--matrix", str(results / "matrix.h5"), "--models", str(results / "models.tsv"),
            "--texts", str(results / "texts.jsonl"), "--folder", str(folder), *more,
        ],
        capture_output=True, text=True,
    )  # fmt: skip


def test_the_command_writes_every_table_and_figure_of_a_release(tmp_path):
    made = make_release(tmp_path / "files", models=120, texts=200)
    results = write_results(made, tmp_path / "published")
    folder = results / "axes"
    scores = ["--benchmarks", str(results / "benchmarks.tsv")]
    done = command(folder, results, *scores, "--components", "5", "--ends", "4")
    assert done.returncode == 0, done.stderr
    variance = read_tsv(folder / "variance.tsv")
    assert float(variance[-1]["cumulative"]) >= 0.99
    places = read_tsv(folder / "places.tsv")
    assert list(places[0]) == ["model", *(f"axis{number}" for number in range(1, 6))]
    assert len(places) == 120
    square = np.mean([float(row["axis1"]) ** 2 for row in places])
    assert square == pytest.approx(float(variance[0]["variance"]), rel=1e-4)
    ends = read_tsv(folder / "texts.tsv")
    assert len(ends) == 5 * 2 * 4
    for row in ends:
        assert row["domain"] == made.domain[int(row["index"])]
    high = [float(row["loading"]) for row in ends[4:8]]
    assert [row["end"] for row in ends[4:8]] == ["high"] * 4
    assert high == sorted(high, reverse=True)
    shares = read_tsv(folder / "domains.tsv")
    own = [float(row["share"]) for row in shares if row["component"] == "1"]
    assert sum(own) == pytest.approx(1, abs=1e-4)
    found = read_tsv(folder / "correlations.tsv")
    assert {row["task"] for row in found} == set(made.tasks)
    for figure in ("variance", "axes", "correlations"):
        assert (folder / f"{figure}.png").stat().st_size > 10_000
        assert (folder / f"{figure}.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("count", [1, 3])
def test_without_scores_and_with_few_models_everything_is_written(tmp_path, count):
    folder = Folder(tmp_path / "few", n_texts=30)
    for number in range(count):
        folder.add(f"org--model-{number}")
    folder.collect()
    results = folder.root
    (results / "collected.h5").rename(results / "matrix.h5")
    matrix = store.read_matrix(results / "matrix.h5")
    models_table.write_models(
        results / "models.tsv", [models_table.Model(name) for name in matrix.model]
    )
    done = command(results / "axes", results)
    assert done.returncode == 0, done.stderr
    assert (results / "axes" / "correlations.tsv").read_text().count("\n") == 1
    assert len(read_tsv(results / "axes" / "places.tsv")) == count
    assert len(read_tsv(results / "axes" / "variance.tsv")) == count - 1
    for figure in ("variance", "axes", "correlations"):
        assert (results / "axes" / f"{figure}.png").exists()


def test_texts_that_are_not_those_of_the_matrix_are_refused(tmp_path):
    folder = Folder(tmp_path / "few", n_texts=30)
    folder.add("org--model")
    folder.collect()
    (folder.root / "collected.h5").rename(folder.root / "matrix.h5")
    write_json(folder.texts, {})
    done = command(tmp_path / "axes", folder.root)
    assert done.returncode == 1
    assert "not the texts of" in done.stderr
    assert not (tmp_path / "axes").exists()


def test_texts_stand_on_one_line_with_what_cannot_be_seen_escaped(tmp_path):
    values = loglik(6, 4)
    found = find(tmp_path / "matrix.h5", values, count=1, domain=["d"] * 4)
    contents = ["two\nlines\tand \x1b[31mred", "x" * 500, "plain", "“quoted”"]
    known = described(found, ["d"] * 4, contents=contents)
    axes.write(tmp_path, found, known.models, known.domains, known.texts, 2)
    rows = {row["index"]: row["text"] for row in read_tsv(tmp_path / "texts.tsv")}
    assert rows["0"] == r"two\nlines\tand \x1b[31mred"
    assert len(rows["1"]) < 130
    assert rows["3"] == "“quoted”"
    with mpl.rc_context(style.RC):
        assert r"two\nlines" in words(figure_axes.draw_axes(known))


def test_letters_that_the_font_lacks_become_dots_and_long_texts_fit():
    shown = figure_axes._fitting("code: 模型 " + "W" * 300)
    assert shown.startswith("code: ·· W")
    assert shown.endswith("…")
    assert style.widest([shown], figure_axes._SMALL) <= figure_axes._LINE


def test_the_figure_of_variance_names_how_many_components_reach_the_marks(tmp_path):
    found = find(tmp_path / "matrix.h5", loglik())
    with mpl.rc_context(style.RC):
        shown = words(figure_axes.draw_variance(described(found, ["d"] * 90)))
    assert f"{found.reaching(0.9)} reach 90 %, {found.reaching(0.95)} reach 95 %" in shown
    assert "42 components reach 90 %" in shown


def test_figures_say_what_is_missing(tmp_path):
    same = np.repeat(loglik(1, 30), 3, axis=0)
    known = described(find(tmp_path / "same.h5", same), ["d"] * 30)
    empty = Correlations([], [], np.zeros((0, 0), np.intp), np.zeros((0, 0)), np.zeros((0, 0)))
    with mpl.rc_context(style.RC):
        assert "do not differ" in words(figure_axes.draw_variance(known))
        assert "do not differ" in words(figure_axes.draw_axes(known))
        assert "no benchmark scores" in words(figure_axes.draw_correlations(known, empty))
        three = described(find(tmp_path / "three.h5", loglik(3, 30)), ["d"] * 30)
        assert "no more axes" in words(figure_axes.draw_axes(three))


def test_the_heatmap_writes_out_every_known_correlation(tmp_path):
    found = find(tmp_path / "matrix.h5", loglik())
    result = Correlations(
        ["mean_loglik", "mean_loglik: d0", "axis1"], ["ARC", "$x$"],
        np.full((3, 2), 30), np.array([[0.5, -0.25], [np.nan, 1.0], [0.11, 0.0]]),
        np.zeros((3, 2)),
    )  # fmt: skip
    with mpl.rc_context(style.RC):
        shown = words(figure_axes.draw_correlations(described(found, ["d0"] * 90), result))
    for value in ("0.50", "-0.25", "1.00", "0.11", "0.00"):
        assert value in shown
    assert "nan" not in shown
    assert "log-likelihood, d0" in shown


def test_the_same_matrix_gives_the_same_tables(tmp_path):
    values = loglik()
    for name in ("first", "second"):
        found = find(tmp_path / f"{name}.h5", values)
        known = described(found, ["d"] * 90)
        axes.write(tmp_path / name, found, known.models, known.domains, known.texts, 5)
    for table in ("variance", "places", "texts", "domains"):
        first, second = ((tmp_path / name / f"{table}.tsv").read_bytes()
                         for name in ("first", "second"))  # fmt: skip
        assert first == second


def test_the_places_in_the_table_are_those_of_the_models(tmp_path):
    found = find(tmp_path / "matrix.h5", loglik())
    known = described(found, ["d"] * 90)
    axes.write(tmp_path, found, known.models, known.domains, known.texts, 3)
    row = read_tsv(tmp_path / "places.tsv")[7]
    np.testing.assert_allclose(
        [float(row[f"axis{number + 1}"]) for number in range(10)], found.points[7], rtol=1e-5
    )
