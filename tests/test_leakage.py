"""Leakage: a robust line, residuals of single models, and planted leaks that come first."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from klmap import (
    benchmarks,
    code_lengths,
    figure_leakage,
    leakage,
    models_table,
    robust,
    split,
    store,
    style,
)
from klmap.benchmarks import Benchmarks
from klmap.design import Design
from klmap.errors import InputError
from klmap.files import read_tsv
from klmap.models_table import Model
from tests.release import Release, make_release, write_results

ROOT = Path(__file__).resolve().parents[1]


class Rows:
    """A matrix in memory that is read like a file."""

    def __init__(self, loglik: Any, domain: list[str], n_bytes: Any, threshold: float) -> None:
        self._loglik = loglik
        self.model = [f"org--model-{row:03d}" for row in range(len(loglik))]
        self.domain = domain
        self.n_bytes = np.asarray(n_bytes)
        self.clip_threshold = threshold
        self.mean_bytes = float(self.n_bytes.mean())
        self.design: Design | None = None

    def loglik(self, begin: int, end: int) -> Any:
        return self._loglik[begin:end]


def world(
    models: int = 60, texts: int = 120, domains: int = 3, seed: int = 0
) -> tuple[Rows, Any, Any]:
    """Rows, log-likelihoods that may be changed, and scores that follow them."""
    rng = np.random.default_rng(seed)
    n_bytes = rng.integers(300, 1024, texts)
    scores = rng.uniform(30, 70, models)
    loglik = -(0.6 - 0.003 * (scores - 50))[:, None] * n_bytes + rng.normal(0, 9, (models, texts))
    loglik += rng.normal(0, 6, (models, 1))
    matrix = Rows(loglik, [f"d{text % domains}" for text in range(texts)], n_bytes, -5000.0)
    return matrix, loglik, scores


def described(matrix: Rows) -> list[Model]:
    means = matrix.loglik(0, len(matrix.model)).mean(axis=1)
    return [
        Model(
            name, id=name.replace("--", "/"), family=f"family-{row % 4}", mean_loglik=float(mean),
            bits_per_byte=float(-mean / matrix.mean_bytes / np.log(2)),
        )
        for row, (name, mean) in enumerate(zip(matrix.model, means, strict=True))
    ]  # fmt: skip


def search(matrix: Rows, scores: Any, tasks: tuple[str, ...] = ()) -> leakage.Leakage:
    table = Benchmarks(["score"], np.asarray(scores, np.float64)[:, None])
    return leakage.find(matrix, described(matrix), table, tasks)


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, Path]:
    folder = tmp_path_factory.mktemp("release")
    made = make_release(folder / "files")
    return made, write_results(made, folder / "published")


@pytest.fixture(scope="module")
def found(release: tuple[Release, Path]) -> tuple[leakage.Leakage, list[Model]]:
    _, folder = release
    with store.open_matrix(folder / "matrix.h5") as matrix:
        models = models_table.read_models(folder / "models.tsv", matrix.model)
        scores = benchmarks.read_benchmarks([folder / "benchmarks.tsv"], models)
        return leakage.find(matrix, models, scores), models


def test_a_median_without_each_value_is_that_of_all_others():
    rng = np.random.default_rng(0)
    for count in (4, 5, 20, 21):
        values = rng.integers(0, 6, count).astype(np.float64)
        slow = [np.median(np.delete(values, place)) for place in range(count)]
        np.testing.assert_array_equal(robust._medians_without(values), slow)


def test_studentised_residuals_are_those_of_a_line_without_the_point():
    rng = np.random.default_rng(1)
    design = np.column_stack([np.ones(40), rng.normal(50, 10, 40), rng.normal(1, 0.2, 40)])
    target = design @ [1.0, -0.01, 0.5] + rng.normal(0, 0.1, 40)
    target[:3] -= (0.3, 0.8, 4.0)
    fit = robust.fit(design, target)
    assert fit.weights[2] == 0
    assert 0 < fit.weights[0] < 1
    for point in range(40):
        others = np.arange(40) != point
        root = np.sqrt(fit.weights[others])
        line = np.linalg.lstsq(design[others] * root[:, None], target[others] * root, rcond=None)[0]
        product = (design[others] * fit.weights[others, None]).T @ design[others]
        lever = design[point] @ np.linalg.inv(product) @ design[point]
        scale = 1.4826 * np.sqrt(39 / 36) * np.median(np.abs(fit.residuals[others]))
        apart = (target[point] - design[point] @ line) / (scale * np.sqrt(1 + lever))
        np.testing.assert_allclose(fit.studentised[point], apart, rtol=1e-8)


def test_two_outliers_in_five_do_not_bend_the_line():
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 10, 200)
    target = 3 - 0.5 * x + rng.normal(0, 0.1, 200)
    far = np.argsort(x)[:80]
    target[far] -= 5
    design = np.column_stack([np.ones(200), x])
    fit = robust.fit(design, target)
    np.testing.assert_allclose(fit.coefficients, [3, -0.5], atol=0.15)
    assert (fit.studentised[far] < -10).all()
    bent = np.linalg.lstsq(design, target, rcond=None)[0]
    assert abs(bent[1] + 0.5) > 0.3


@pytest.mark.parametrize(("count", "repeats"), [(20, 500), (200, 120)])
def test_normal_errors_are_flagged_as_often_as_expected(count: int, repeats: int):
    rng = np.random.default_rng(3)
    flags, expected = 0, 0.0
    for _ in range(repeats):
        design = np.column_stack([np.ones(count), rng.normal(50, 10, count)])
        fit = robust.fit(design, rng.normal(size=count))
        flags += int((fit.studentised > 2).sum())
        expected += count * float(fit.chance(np.array([2.0]))[0])
    assert 0.75 * expected < flags < 1.25 * expected


def test_a_fit_depends_on_its_input_alone():
    rng = np.random.default_rng(4)
    design, target = np.column_stack([np.ones(30), rng.normal(size=30)]), rng.normal(size=30)
    first, second = robust.fit(design, target), robust.fit(design.copy(), target.copy())
    assert first.studentised.tobytes() == second.studentised.tobytes()


@pytest.mark.parametrize("constant", ["scores", "everything"])
def test_models_or_scores_that_are_all_alike_give_finite_residuals(constant: str):
    matrix, loglik, scores = world()
    if constant == "everything":
        loglik[:] = loglik[0]
    result = search(matrix, np.full(len(scores), 50.0))
    assert np.isfinite(result.overall.studentised).all()
    assert np.isfinite(result.studentised).all()


def test_code_lengths_are_clipped_means_over_the_texts_of_each_domain():
    matrix, loglik, _ = world(models=5, texts=60)
    loglik[2, 4] = -1e6
    domains = code_lengths.told_apart(matrix.domain)
    result = code_lengths.by_domain(matrix, domains)
    for row in range(5):
        for place, name in enumerate(domains.names):
            own = [text for text in range(60) if matrix.domain[text] == name]
            nats = sum(max(loglik[row, text], matrix.clip_threshold) for text in own)
            size = sum(matrix.n_bytes[text] for text in own)
            np.testing.assert_allclose(result[row, place], -nats / size / np.log(2), rtol=1e-12)


def test_models_that_saw_all_texts_come_first(release, found):
    made, _ = release
    result, models = found
    whole = {name.replace("/", "--") for name, where in made.leaked.items() if not where}
    order = np.argsort(-result.overall.studentised)
    assert {models[result.rows[place]].model for place in order[: len(whole)]} == whole
    assert result.overall.flag[order[: len(whole)]].all()


def test_a_leak_of_one_domain_comes_first_there_although_the_whole_is_not_flagged(release, found):
    made, _ = release
    result, models = found
    names = [models[row].model for row in result.rows]
    unflagged = 0
    for name, domain in made.leaked.items():
        if not domain:
            continue
        place = names.index(name.replace("/", "--"))
        column = result.names.index(domain)
        assert result.studentised[:, column].argmax() == place
        assert result.domains[column].flag[place]
        assert result.studentised[place].argmax() == column
        unflagged += not result.overall.flag[place]
    assert unflagged


def test_few_others_are_flagged_and_none_of_them_with_confidence(release, found):
    made, _ = release
    result, models = found
    leaked = {name.replace("/", "--") for name in made.leaked}
    clean = np.array([models[row].model not in leaked for row in result.rows])
    false = sum(int(domain.flag[clean].sum()) for domain in result.domains)
    assert false <= 3 * sum(domain.by_chance for domain in result.domains) + 3
    assert min(domain.q[clean].min() for domain in result.domains) > 0.05
    assert result.overall.q[clean].min() > 0.05


def test_what_all_other_texts_cost_is_part_of_what_is_expected_of_a_domain():
    matrix, loglik, scores = world(seed=5)
    loglik[7] -= 0.3 * matrix.n_bytes
    result = search(matrix, scores)
    assert result.overall.studentised[7] < -10
    plain = [
        robust.fit(np.column_stack([np.ones(60), scores]), lengths).studentised[7]
        for lengths in code_lengths.by_domain(matrix, code_lengths.told_apart(matrix.domain)).T
    ]
    assert min(np.abs(plain)) > 3 * np.abs(result.studentised[7]).max()


def test_the_line_of_a_domain_has_the_score_and_the_code_length_of_the_texts_outside_it():
    matrix, loglik, scores = world(seed=6)
    result = search(matrix, scores)
    for place, name in enumerate(result.names):
        own = np.array([domain == name for domain in matrix.domain])
        inside, outside = (
            -loglik[:, some].sum(axis=1) / matrix.n_bytes[some].sum() / np.log(2)
            for some in (own, ~own)
        )
        fit = robust.fit(np.column_stack([np.ones(60), scores, outside]), inside)
        np.testing.assert_allclose(result.studentised[:, place], -fit.studentised, rtol=1e-6)


def test_residuals_are_positive_where_the_texts_are_known_too_well():
    matrix, loglik, scores = world()
    before = search(matrix, scores)
    loglik[3] *= 0.7
    after = search(matrix, scores)
    assert after.overall.studentised[3] > 3 > before.overall.studentised[3]
    assert after.overall.residual[3] > 0
    expected = after.line.expected[3] - after.bits[3]
    np.testing.assert_allclose(after.overall.residual[3], expected)


def test_q_values_are_those_of_benjamini_and_hochberg():
    matrix, _, scores = world()
    result = search(matrix, scores)
    chance = result.line.chance(result.overall.studentised)
    order = np.argsort(chance)
    slow = np.empty(len(chance))
    lowest = 1.0
    for rank in range(len(chance), 0, -1):
        lowest = min(lowest, chance[order[rank - 1]] * len(chance) / rank)
        slow[order[rank - 1]] = lowest
    np.testing.assert_allclose(result.overall.q, slow)


def test_domains_too_small_for_a_mean_are_joined_or_left_out():
    matrix, _, scores = world(texts=120)
    matrix.domain = ["large"] * 75 + ["middle"] * 30 + ["small"] * 9 + ["tiny"] * 6
    assert search(matrix, scores).names == ("large", "middle")
    matrix.domain = ["large"] * 75 + ["small"] * 19 + ["tiny"] * 26
    assert search(matrix, scores).names == ("large", "tiny")
    matrix.domain = ["large"] * 80 + ["small"] * 19 + ["tiny"] * 15 + ["least"] * 6
    result = search(matrix, scores)
    assert result.names == ("large", "3 smaller domains")
    assert result.texts == (80, 40)


def test_one_domain_of_few_texts_is_compared_as_a_whole():
    matrix, _, scores = world(texts=15, domains=1)
    result = search(matrix, scores)
    assert result.names == ("d0",)
    np.testing.assert_allclose(result.studentised[:, 0], result.overall.studentised, rtol=1e-6)


def test_too_few_models_with_scores_are_refused():
    matrix, _, scores = world()
    scores[19:] = np.nan
    with pytest.raises(InputError, match="19 models of this map have a benchmark score"):
        search(matrix, scores)
    with pytest.raises(InputError, match="no benchmark scores"):
        leakage.find(matrix, described(matrix), Benchmarks([], np.zeros((60, 0))))


def test_the_benchmark_mean_is_that_of_a_mean_column_of_named_tasks_or_of_all():
    values = np.array([[1.0, 3.0, 7.0], [2.0, np.nan, 9.0]])
    table = Benchmarks(["a", "b", "6-TaskMean"], values)
    mean, text = leakage.benchmark_mean(table, [])
    np.testing.assert_array_equal(mean, [7, 9])
    assert text == "6-TaskMean"
    mean, text = leakage.benchmark_mean(table, ["a", "b"])
    np.testing.assert_array_equal(mean, [2, np.nan])
    assert text == "mean of 2 tasks"
    several = np.concatenate([np.tile(values[:1, :2], (24, 1)), values[1:, :2]])
    mean, _ = leakage.benchmark_mean(Benchmarks(["a", "b"], several), [])
    np.testing.assert_array_equal(mean, [2] * 24 + [np.nan])
    with pytest.raises(InputError, match="'c'"):
        leakage.benchmark_mean(table, ["c"])


def test_a_column_that_few_models_have_is_left_out_of_the_mean_and_named(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("klmap"), "propagate", True)
    caplog.set_level(logging.INFO, "klmap")
    matrix, _, scores = world()
    values = np.column_stack([scores, scores + 3, scores])
    values[30:, 2] = np.nan
    values[:2, 1] = np.nan
    table = Benchmarks(["a", "b", "ours"], values)
    result = leakage.find(matrix, described(matrix), table)
    assert (result.score, len(result.rows)) == ("mean of 2 tasks", 58)
    np.testing.assert_array_equal(result.benchmark, values[2:, :2].mean(axis=1))
    assert "ours is left out of the benchmark mean: with it 28 models would" in caplog.text
    assert "without it 58" in caplog.text
    assert "benchmark mean of a, b: 58 of 60 models; without a score: b 2" in caplog.text
    named = leakage.find(matrix, described(matrix), table, ["a", "ours"])
    assert len(named.rows) == 30, "what is asked for is done"


def test_tasks_in_different_units_are_not_averaged():
    matrix, _, scores = world()
    for other in (40 * scores, scores / 100, -scores):
        table = Benchmarks(["a", "b"], np.column_stack([scores, other]))
        with pytest.raises(InputError, match=r"different units \(a .*, b .*analyses.leakage.tasks"):
            leakage.find(matrix, described(matrix), table)
        assert leakage.find(matrix, described(matrix), table, ["b"]).score == "b"
    table = Benchmarks(["a", "b"], np.column_stack([scores, 0.8 * scores]) / 100)
    assert leakage.find(matrix, described(matrix), table).score == "mean of 2 tasks"


def test_the_command_writes_tables_by_falling_suspicion_and_the_figure(release, found, tmp_path):
    _, folder = release
    result, models = found
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "scripts" / "leakage.py"),
            "--matrix", folder / "matrix.h5", "--models", folder / "models.tsv",
            "--benchmarks", folder / "benchmarks.tsv", "--tasks", "--folder", tmp_path / "made",
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    leakage.write(tmp_path / "again", result, models)
    for name in ("leakage.tsv", "domains.tsv"):
        assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    rows = read_tsv(tmp_path / "made" / "leakage.tsv")
    assert tuple(rows[0]) == leakage.COLUMNS
    values = [float(row["studentised"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert [row["flag"] == "true" for row in rows] == [value > 3 for value in values]
    known = {model.model: model for model in models}
    for row in rows:
        model = known[row["model"]]
        assert float(row["mean_loglik"]) == pytest.approx(model.mean_loglik, rel=1e-5)
        apart = float(row["expected"]) - float(row["bits_per_byte"])
        assert float(row["residual"]) == pytest.approx(apart, abs=2e-5)
    parts = read_tsv(tmp_path / "made" / "domains.tsv")
    assert tuple(parts[0]) == leakage.DOMAIN_COLUMNS
    assert len(parts) == len(rows) * len(result.names)
    worst = {row["model"]: row["most_suspicious_domain"] for row in rows}
    for domain in result.names:
        own = [float(row["studentised"]) for row in parts if row["domain"] == domain]
        assert own == sorted(own, reverse=True)
    assert worst[parts[0]["model"]] in result.names
    assert (tmp_path / "made" / "leakage.png").stat().st_size > 10_000
    assert (tmp_path / "made" / "leakage.svg").read_text().startswith("<?xml")


def test_the_figure_names_what_is_flagged_and_says_what_chance_would_flag(found):
    result, models = found
    with mpl.rc_context(style.RC):
        shown = words(figure_leakage.draw(result, models, "400 texts of “published”"))
    for place in np.flatnonzero(result.overall.flag):
        assert models[result.rows[place]].model.partition("--")[2] in shown
    assert f"{result.overall.by_chance:.1f} expected by chance" in shown
    assert "klmap's own" in shown
    assert "Most suspicious models" in shown


def test_the_figure_says_where_nothing_is_flagged_and_holds_broken_models():
    matrix, loglik, scores = world(models=20, texts=60, domains=2, seed=2)
    loglik[4] *= 8
    result = search(matrix, scores)
    assert not result.overall.flag.any()
    assert result.overall.studentised[4] < -100
    assert result.studentised[4].max() < 3
    with mpl.rc_context(style.RC):
        figure = figure_leakage.draw(result, described(matrix), "60 texts of “x”")
    shown = words(figure)
    assert "none flagged of 20" in shown
    assert "Nothing is flagged" in shown
    assert "1 beyond the upper edge" in shown
    assert figure.axes[0].get_ylim()[1] < 2


def test_no_name_in_the_figure_lies_on_another():
    matrix, loglik, scores = world(models=400, texts=60, seed=2)
    loglik[:12] *= np.linspace(0.7, 0.72, 12)[:, None]
    result = search(matrix, scores)
    with mpl.rc_context(style.RC):
        figure = figure_leakage.draw(result, described(matrix), "60 texts of “x”")
        figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) >= 6
    for place, box in enumerate(boxes):
        for other in boxes[place + 1 :]:
            shared = mpl.transforms.Bbox.intersection(box, other)
            assert shared is None or shared.width * shared.height < 0.1 * box.width * box.height


def test_domains_are_told_apart_up_to_a_number_that_a_figure_can_hold():
    domains = code_lengths.told_apart([f"d{text % 40}" for text in range(40 * 25)])
    assert len(domains.names) == code_lengths.MOST_DOMAINS
    assert isinstance(domains, split.Domains)
