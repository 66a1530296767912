"""Estimated KLs against exact ones: the numbers, what explains them, and the files."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klmap import figure_true_kl, geometry, models_table, store, store_divergence, true_kl
from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.files import read_tsv
from klmap.gathered import Gathered, gathered
from klmap.models_table import Model
from klmap.store_divergence import Divergence
from klmap.true_kl import CHECKPOINTS, OTHER, QUANTIZED, TUNED, Pair, Summary, TrueKl, Value
from tests import mapfiles

SCRIPT = Path(__file__).parents[1] / "scripts" / "true_kl.py"
SHA = "5ha" * 5
TEXTS = 60


class Project:
    """matrix.h5, models.tsv and offmap.* of made-up models, and files of exact divergences."""

    def __init__(self, root: Path, loglik: Floats, rows: Sequence[Model], off: int = 0) -> None:
        self.root, self.loglik, self.rows = root, loglik, list(rows)
        self.n_bytes = np.random.default_rng(8).integers(300, 1000, loglik.shape[1])
        self.threshold = geometry.clip_threshold(loglik)
        count = len(rows) - off
        self._write("matrix.h5", "models.tsv", slice(0, count))
        if off:
            self._write("offmap.h5", "offmap.tsv", slice(count, None))

    def _write(self, matrix: str, table: str, some: slice) -> None:
        values, rows = self.loglik[some], self.rows[some]
        file = store.Matrix(
            loglik=values,
            coordinates=geometry.double_centre(values, self.threshold).astype(np.float32),
            model=[row.model for row in rows],
            domain=["all"] * values.shape[1],
            n_bytes=self.n_bytes.astype(np.int32),
            clip_quantile=0.02,
            clip_threshold=self.threshold,
            mean_bytes=float(self.n_bytes.mean()),
            texts_sha256=SHA,
            noise=np.full(len(rows), 0.5),
        )
        store.write_matrix(self.root / matrix, file)
        models_table.write_models(
            self.root / table,
            [replace(row, mean_loglik=-1.0, bits_per_byte=1.0) for row in rows],
        )

    def pair(self, first: str, second: str, kl: Floats, **changes: Any) -> Path:
        """A file of one pair, of every third text, with its models' own log-likelihoods."""
        names = [row.model for row in self.rows]
        text = np.arange(0, self.loglik.shape[1], 3, dtype=np.int32)
        rows = [names.index(name) for name in (first, second) if name in names]
        values: dict[str, Any] = {
            "kl": kl,
            "text": text,
            "n_scored": np.full(len(text), 100, np.int32),
            "loglik": self.loglik[rows][:, text] if len(rows) == 2 else -np.ones((2, len(text))),
            "squares": np.full(len(text), 30.0),
            "attributes": {"mass_outside_first": 0.0, "mass_outside_second": 0.01},
            **changes,
        }
        path = self.root / f"{first}~{second}.h5"
        found = Divergence(first, second, ["c", "d"], SHA, "f", {}, **values)
        store_divergence.write_divergence(path, found)
        return path

    def failed(self, first: str, second: str, reason: str) -> Path:
        path = self.root / f"{first}~{second}.h5"
        found = Divergence(
            first, second, ["c", "d"], SHA, "f", {}, status="failed", error=reason
        )  # fmt: skip
        store_divergence.write_divergence(path, found)
        return path

    @contextlib.contextmanager
    def open(self) -> Iterator[Gathered]:
        off = [self.root / "offmap.h5", self.root / "offmap.tsv"]
        more = off if off[0].exists() else []
        with gathered(self.root / "matrix.h5", self.root / "models.tsv", *more) as found:
            yield found

    def measure(self, paths: Sequence[Path]) -> TrueKl:
        with self.open() as found:
            return true_kl.measure(found, paths)


def noisy(models: int, texts: int = TEXTS, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    base = rng.normal(-600, 200, texts)
    return np.asarray(base + rng.normal(0, 20, (models, texts)), np.float64)


def some(rng: np.random.Generator, size: float = 1.0) -> Floats:
    return np.asarray(rng.gamma(2, size, (2, TEXTS // 3)), np.float64)


def test_numbers_are_those_of_plain_formulas(tmp_path: Path) -> None:
    rows = [Model("a", id="a"), Model("b", id="b")]
    project = Project(tmp_path, noisy(2), rows)
    kl = some(np.random.default_rng(1))
    squares = np.random.default_rng(2).gamma(2, 9, TEXTS // 3)
    (pair,) = project.measure([project.pair("a", "b", kl, squares=squares)]).pairs
    text = np.arange(0, TEXTS, 3)
    unit = project.n_bytes[text].mean() * math.log(2)
    assert pair.texts == TEXTS // 3
    assert pair.forward.kl == pytest.approx(sum(kl[0]) / len(text) / unit)
    assert pair.backward.kl == pytest.approx(sum(kl[1]) / len(text) / unit)
    each = (kl[0] + kl[1]) / 2 / unit
    assert pair.true.kl == pytest.approx(each.mean())
    assert pair.true.se == pytest.approx(each.std() / math.sqrt(len(text)))
    whole = project.n_bytes.mean() * math.log(2)
    raw, clipped = project.loglik, np.maximum(project.loglik, project.threshold)
    assert (clipped != raw).any()
    for name, values, size in (
        ("map", clipped, whole), ("same", clipped[:, text], unit), ("raw", raw[:, text], unit),
    ):  # fmt: skip
        d = values[0] - values[1]
        d = d - d.mean()
        found = pair.estimates[true_kl.ESTIMATES.index(name)]
        assert found.kl == pytest.approx((d**2).mean() / 2 / size)
        se = math.sqrt(((d**4).mean() - (d**2).mean() ** 2) / len(d)) / 2 / size
        assert found.se == pytest.approx(se)
    assert pair.estimates[3].kl == pytest.approx(squares.mean() / 2 / unit)
    assert pair.noise_floor == pytest.approx(2 * 0.25 / (2 * whole))
    assert pair.ratio() == pytest.approx(pair.estimates[0].kl / pair.true.kl)
    assert pair.mass_outside == 0.01


def written_by(
    probabilities: Floats, models: Sequence[Floats], texts: int, tokens: int, seed: int
) -> Divergence:
    """Texts of independent tokens from given distributions, one per text, and two models of them.

    Args:
        probabilities: (T, V) what the tokens of each text are drawn from.
        models: two distributions (V,).
        texts: T.
        tokens: of each text.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    p, q = models
    counts = np.array([rng.multinomial(tokens, row) for row in probabilities])
    kl = np.array([(p * np.log(p / q)).sum(), (q * np.log(q / p)).sum()]) * tokens
    return Divergence(
        "a", "b", ["c", "d"], SHA, "f", {},
        kl=np.repeat(kl[:, None], texts, 1),
        text=np.arange(texts, dtype=np.int32),
        n_scored=np.full(texts, tokens, np.int32),
        loglik=np.array([counts @ np.log(p), counts @ np.log(q)]),
        squares=counts @ np.log(p / q) ** 2,
        attributes={"mass_outside_first": 0.0, "mass_outside_second": 0.0},
    )  # fmt: skip


def against(divergence: Divergence) -> Pair:
    texts = len(divergence.text)
    found = Gathered(
        [], np.zeros(0, np.bool_), np.zeros(0), ["all"] * texts, np.full(texts, 700, np.int32),
        700.0, None, -math.inf, [], [],
    )  # fmt: skip
    return true_kl.compare(found, divergence)


def test_on_texts_that_a_model_writes_itself_the_estimate_is_the_exact_kl() -> None:
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.full(50, 2.0))
    q = p * np.exp(rng.normal(0, 0.2, 50))
    q /= q.sum()
    pair = against(written_by(np.tile(p, (20_000, 1)), (p, q), 20_000, 200, 4))
    assert pair.ratio("raw") == pytest.approx(1, abs=0.05)
    assert pair.ratio("tokens") == pytest.approx(1, abs=0.05)


def test_texts_that_lean_to_one_of_the_models_make_the_estimate_larger_but_not_that_of_tokens() -> (
    None
):
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.full(50, 2.0))
    tilt = rng.normal(0, 0.2, 50)
    q = p * np.exp(tilt)
    q /= q.sum()
    lean = rng.normal(0, 1, (5000, 1))  # each text has a style of its own, along the models' tilt
    styles = p * np.exp(lean * tilt)
    styles /= styles.sum(1, keepdims=True)
    pair = against(written_by(styles, (p, q), 5000, 200, 4))
    assert pair.ratio("raw") > 4
    assert pair.ratio("tokens") == pytest.approx(1, abs=0.15)


def test_relations_are_read_off_the_names_in_either_order() -> None:
    base = Model("a/base", id="a/base")
    cases = [
        (replace(base, variant="nf4"), QUANTIZED),
        (replace(base, revision="step10"), CHECKPOINTS),
        (Model("a/tuned", id="a/tuned", base_model=("x/y", "a/base@step10")), TUNED),
        (Model("a/else", id="a/else", base_model=("a/bas",)), OTHER),
    ]
    for other, expected in cases:
        assert true_kl.relation_of(base, other) == expected
        assert true_kl.relation_of(other, base) == expected


def zoo(root: Path, pairs: int = 12) -> tuple[Project, list[Path]]:
    """A chain of models whose exact KLs are the estimates' with noise, some off the map."""
    rng = np.random.default_rng(5)
    rows = [Model(f"m{place:02d}", id=f"m{place:02d}") for place in range(pairs + 1)]
    loglik = noisy(1)[0] + np.cumsum(
        rng.normal(0, 1, (pairs + 1, TEXTS)) * np.geomspace(1, 40, pairs + 1)[:, None], axis=0
    )
    project = Project(root, loglik, rows, off=2)
    text = np.arange(0, TEXTS, 3)
    paths = []
    for place in range(pairs):
        size = (loglik[place] - loglik[place + 1])[text].var() / 2
        kl = some(rng) / 2 * size * rng.lognormal(0, 0.3)
        paths.append(project.pair(rows[place].model, rows[place + 1].model, kl))
    return project, paths


def test_pairs_are_sorted_by_their_kl_and_failures_come_last_with_their_reason(
    tmp_path: Path,
) -> None:
    project, paths = zoo(tmp_path)
    failed = [
        project.failed("m03", "m09", "no common\tvocabulary"),
        project.failed("m00", "gone", "nothing there"),
    ]
    found = project.measure([*failed, *reversed(paths)])
    assert [pair.error for pair in found.pairs[-2:]] == ["nothing there", "no common\tvocabulary"]
    values = [pair.true.kl for pair in found.known]
    assert len(values) == 12
    assert values == sorted(values)
    assert found.texts == TEXTS // 3
    true_kl.write(tmp_path / "out", found)
    rows = read_tsv(tmp_path / "out" / "true_kl.tsv")
    assert rows[-1]["error"] == "no common vocabulary"
    assert rows[-1]["kl"] == rows[-1]["texts"] == ""
    assert rows[0]["error"] == ""
    assert float(rows[0]["kl"]) == pytest.approx(values[0], rel=1e-5)


def test_a_model_that_is_not_there_leaves_the_estimate_of_the_map_empty(tmp_path: Path) -> None:
    project, _ = zoo(tmp_path)
    (pair,) = project.measure([project.pair("m00", "gone", some(np.random.default_rng(1)))]).pairs
    assert math.isnan(pair.estimates[0].kl)
    assert math.isnan(pair.noise_floor)
    assert pair.relation == OTHER
    assert pair.true.kl > 0


def test_models_off_the_map_are_found(tmp_path: Path) -> None:
    project, paths = zoo(tmp_path)
    found = project.measure(paths)
    assert {pair.second for pair in found.known if not math.isnan(pair.ratio())} >= {"m11", "m12"}


def test_correlations_and_ratios_are_those_of_numpy(tmp_path: Path) -> None:
    project, paths = zoo(tmp_path)
    found = project.measure(paths)
    row = found.summary("map")
    x = np.array([pair.true.kl for pair in found.known])
    y = np.array([pair.estimates[0].kl for pair in found.known])
    assert row.pairs == 12
    assert row.pearson_log.value == pytest.approx(np.corrcoef(np.log(x), np.log(y))[0, 1])
    assert row.pearson.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    assert row.spearman.value == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert row.pearson_log.low < row.pearson_log.value < row.pearson_log.high <= 1
    assert row.pearson_log.value > 0.9
    assert row.quartiles == pytest.approx(tuple(np.quantile(y / x, (0.5, 0.25, 0.75))))


def test_sizes_hold_each_pair_once(tmp_path: Path) -> None:
    project, paths = zoo(tmp_path)
    found = project.measure(paths)
    bins = found.summaries[len(true_kl.ESTIMATES) :]
    assert sum(row.pairs for row in bins) == 12
    assert len(bins) > 2
    for row in bins:
        assert row.most / row.least == pytest.approx(math.sqrt(10))
        inside = [pair for pair in found.known if row.least <= pair.true.kl < row.most]
        assert len(inside) == row.pairs > 0


def test_the_edges_of_sizes_belong_to_the_upper_one() -> None:
    for value in (0.001, 0.1, 1.0, 10.0, 10**0.5, 0.3):
        ((least, most),) = true_kl.sizes([value])
        assert least <= value < most


def test_few_pairs_have_no_interval_and_one_has_no_correlation(tmp_path: Path) -> None:
    project, paths = zoo(tmp_path)
    three = project.measure(paths[:3]).summary("map")
    assert not math.isnan(three.pearson.value)
    assert math.isnan(three.pearson.low)
    one = project.measure(paths[:1]).summary("map")
    assert math.isnan(one.pearson.value)
    assert one.pairs == 1
    none = project.measure([])
    assert none.summary("map").pairs == 0
    assert none.pairs == []


def test_equal_models_have_no_ratio(tmp_path: Path) -> None:
    project, _ = zoo(tmp_path)
    nothing = np.zeros((2, TEXTS // 3))
    (pair,) = project.measure([project.pair("m00", "m01", nothing)]).pairs
    assert math.isnan(pair.ratio())
    true_kl.write(tmp_path / "out", project.measure([tmp_path / "m00~m01.h5"]))
    assert read_tsv(tmp_path / "out" / "true_kl.tsv")[0]["ratio"] == ""


def test_other_texts_and_selections_are_refused(tmp_path: Path) -> None:
    project, _ = zoo(tmp_path)
    path = project.pair("m00", "m01", some(np.random.default_rng(1)))
    found = store_divergence.read_divergence(path)
    store_divergence.write_divergence(path, replace(found, texts_sha256="else"))
    with pytest.raises(InputError, match="of other texts than the matrix"):
        project.measure([path])
    with project.open() as models, pytest.raises(InputError, match="selection"):
        true_kl.measure(replace(models, design=mapfiles.everything(TEXTS)), [])


def made(count: int, failed: int = 0, seed: int = 0) -> TrueKl:
    """Results of many pairs, as they might be."""
    rng = np.random.default_rng(seed)
    pairs = []
    for place in range(count):
        kl = float(10 ** rng.uniform(-5, 0.5))
        values = [kl * factor * rng.lognormal(0, 0.3) for factor in (5, 5, 5, 1.1)]
        pairs.append(
            Pair(
                f"a{place}", f"b{place}", true_kl.RELATIONS[place % 4], 200, 1000,
                true=Value(kl, kl / 10), estimates=tuple(Value(v, v / 8) for v in values),
                noise_floor=1e-4,
            )
        )  # fmt: skip
    pairs += [Pair(f"c{place}", "d", error="no common vocabulary") for place in range(failed)]
    known = pairs[:count]
    summaries: list[Summary] = [true_kl.summarise(known, name, seed) for name in true_kl.ESTIMATES]
    return TrueKl(pairs, summaries, 200, 10_000)


@pytest.mark.parametrize(("count", "failed"), [(0, 0), (0, 2), (1, 0), (3, 1), (500, 3)])
def test_the_figure_holds_any_number_of_pairs(count: int, failed: int) -> None:
    found = made(count, failed)
    figure = figure_true_kl.draw(found, "demo")
    words = " ".join(text.get_text() for text in figure.texts)
    assert f"{count:,} pair" in words
    assert ("without an exact KL" in words) == bool(failed)
    if not count:
        return
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim() == left.get_ylim() == right.get_ylim()
    for axes, name in ((left, 0), (right, 3)):
        drawn = np.concatenate(
            [line.get_ydata() for line in axes.get_lines() if line.get_linestyle() == "None"]
        )
        expected = [pair.estimates[name].kl for pair in found.known]
        assert sorted(drawn.tolist()) == pytest.approx(sorted(expected))


def test_without_an_estimate_of_the_map_the_figure_has_that_of_the_same_texts() -> None:
    found = made(5)
    pairs = [replace(pair, estimates=(Value(), *pair.estimates[1:])) for pair in found.pairs]
    rows = [true_kl.summarise(pairs, name, 0) for name in true_kl.ESTIMATES]
    figure = figure_true_kl.draw(replace(found, pairs=pairs, summaries=rows), "demo")
    assert figure.axes[0].get_title(loc="left") == "The estimate by the same texts"


def test_pairs_below_the_noise_are_hollow_on_the_left_alone() -> None:
    figure = figure_true_kl.draw(made(200), "demo")
    hollow = [
        [line for line in axes.get_lines() if line.get_markerfacecolor() == "white"]
        for axes in figure.axes
    ]
    assert hollow[0]
    assert not hollow[1]
    values = np.concatenate([line.get_ydata() for line in hollow[0]])
    assert (values < 1e-4).all()


def test_the_script_writes_the_same_bytes_again(tmp_path: Path) -> None:
    _, paths = zoo(tmp_path)
    for name in ("one", "two"):
        command = [
            sys.executable, str(SCRIPT), "--matrix", str(tmp_path / "matrix.h5"),
            "--models", str(tmp_path / "models.tsv"), "--offmap", str(tmp_path / "offmap.h5"),
            "--offmap-models", str(tmp_path / "offmap.tsv"), "--divergences", *map(str, paths),
            "--folder", str(tmp_path / name),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["summary.tsv", "true_kl.png", "true_kl.svg", "true_kl.tsv"]
    for name in files:
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert first == second, name
