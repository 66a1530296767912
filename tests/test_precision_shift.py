"""What a lower precision costs: pairs, the test against noise, directions, tables, figures."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from klmap import (
    figure_quantization,
    figure_quantization_cosines,
    files,
    geometry,
    models_table,
    precision_directions,
    precision_shift,
    precision_tables,
    precisions,
    store,
)
from klmap.arrays import Floats
from klmap.blocks import ranges
from klmap.design import Design
from klmap.errors import InputError
from klmap.gathered import gathered
from klmap.models_table import Model
from klmap.precision_directions import Cosines
from klmap.precision_shift import Shifts
from tests import mapfiles

SCRIPT = Path(__file__).parents[1] / "scripts" / "quantization.py"
BYTES = 700.0
UNIT = 2 * BYTES * math.log(2)


def row(name: str, variant: str = "", dtype: str = "float32", **more: object) -> Model:
    """A row of models.tsv that is told apart by its variant."""
    known = {"id": f"org/{name}", "family": name.partition("-")[0], **more}
    revision = f"@{known['revision']}" if known.get("revision") else ""
    return Model(
        f"org--{name}{revision}{'+' if variant else ''}{variant}",
        variant=variant, dtype=dtype, bits_per_byte=1.0, mean_loglik=-500.0, **known,  # type: ignore[arg-type]
    )  # fmt: skip


def found(models: list[Model]) -> set[tuple[str, str, str]]:
    return {
        (models[pair.row].model, models[pair.full].model, pair.method)
        for pair in precisions.lowered(models)
    }


def written(
    folder: Path, models: list[Model], loglik: Floats, noise: float | Floats = 0.01, name: str = ""
) -> tuple[Path, Path]:
    """A matrix of 700-byte texts in three domains, and its table."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = loglik.shape[1]
    matrix = store.Matrix(
        loglik=loglik,
        coordinates=geometry.double_centre(loglik, -900.0).astype(np.float32),
        model=[model.model for model in models],
        domain=[mapfiles.DOMAINS[place % 3] for place in range(texts)],
        n_bytes=np.tile(np.array([600, 700, 800], np.int32), texts)[:texts],
        clip_quantile=0.02,
        clip_threshold=-900.0,
        mean_bytes=BYTES,
        texts_sha256="0" * 64,
        noise=np.broadcast_to(np.asarray(noise, np.float64), len(models)).copy(),
    )
    paths = folder / f"{name or 'matrix'}.h5", folder / f"{name or 'models'}.tsv"
    store.write_matrix(paths[0], matrix)
    models_table.write_models(paths[1], models)
    return paths


@dataclass(frozen=True)
class Held:
    """The face of an open matrix, in memory."""

    model: list[str]
    values: Floats

    def loglik(self, begin: int, end: int) -> Floats:
        return self.values[begin:end]


def measured(
    folder: Path, models: list[Model], loglik: Floats, noise: float | Floats = 0.01
) -> Shifts:
    with gathered(*written(folder, models, loglik, noise)) as some:
        held = Held(some.parts[0].model, some.raw(range(len(models))))
        return precision_shift.measure(replace(some, parts=[held]))  # type: ignore[list-item]


def vectors(some: Shifts) -> Floats:
    return some.read(range(len(some.pairs)))[0]


def losses(some: Shifts) -> Floats:
    return some.read(range(len(some.pairs)))[1]


def place(cosines: Cosines, first: int, second: int) -> int:
    return [(pair.first, pair.second) for pair in cosines.pairs].index((first, second))


def zoo(texts: int = 300, seed: int = 3) -> tuple[list[Model], Floats]:
    """Two families of two models, each in three methods, whose nf4 share a direction."""
    rng = np.random.default_rng(seed)
    base = -500 + rng.normal(0, 40, texts)
    rows, values = [], []
    for family in ("gpt", "llama"):
        shared = rng.normal(0, 1, texts)
        for number in (1, 2):
            full = base + rng.normal(0, 10, texts)
            rows.append(row(f"{family}-{number}"))
            values.append(full)
            for method, size in (("int8", 0.1), ("nf4", 1.0), ("fp4", 2.0)):
                own = rng.normal(0, 1, texts)
                change = 0.9 * shared + 0.4 * own if method == "nf4" else own
                rows.append(row(f"{family}-{number}", method))
                values.append(full + size * change - size * 0.3)
    return rows, np.array(values)


# Which models are compared


def test_a_model_is_compared_with_its_own_source_alone() -> None:
    models = [
        row("a"), row("a", "int8"), row("a", "nf4"), row("b", "int8"),
        row("a", revision="step10"), row("a", "int8", revision="step10"),
    ]  # fmt: skip
    assert found(models) == {
        ("org--a+int8", "org--a", "int8"),
        ("org--a+nf4", "org--a", "nf4"),
        ("org--a@step10+int8", "org--a@step10", "int8"),
    }
    assert precisions.orphans(models, precisions.lowered(models)) == [3]


def test_full_precision_is_the_most_exact_row() -> None:
    models = [
        row("a", dtype="float16"), row("a", "float32"), row("a", "bfloat16", "bfloat16"),
        row("a", "nf4", "float16"), row("a", "nf4+bfloat16", "bfloat16"),
    ]  # fmt: skip
    assert found(models) == {
        ("org--a", "org--a+float32", "float16"),
        ("org--a+bfloat16", "org--a+float32", "bfloat16"),
        ("org--a+nf4", "org--a+float32", "nf4"),
        ("org--a+nf4+bfloat16", "org--a+float32", "nf4+bfloat16"),
    }


def test_the_same_precision_under_another_name_is_no_pair() -> None:
    assert not found([row("a"), row("a", "float32"), row("a", "none")])


def test_prefix_and_overlength_are_kept_apart_and_hidden_states_left_out() -> None:
    models = [
        row("a"), row("a", "int8"), row("a", "bos"), row("a", "int8+bos"), row("b", "int8+bos"),
        row("b"), row("a", "layer1", layer=1), row("a", "int8+layer1", layer=1),
    ]  # fmt: skip
    assert found(models) == {
        ("org--a+int8", "org--a", "int8"),
        ("org--a+int8+bos", "org--a+bos", "int8"),
    }


def test_stored_weights_are_compared_with_their_base_model() -> None:
    models = [
        row("a"), row("a", revision="step5"), row("a", "int8"),
        row("a-GPTQ-4bit", relation="quantized", base_model=("org/a",)),
        row("a-awq", relation="quantized", base_model=("org/absent", "org/a@step5")),
        row("a-small", relation="quantized", base_model=("org/a",)),
        row("a-tuned", relation="finetune", base_model=("org/a",)),
        row("lost-gptq", relation="quantized", base_model=("org/lost",)),
    ]  # fmt: skip
    assert found(models) == {
        ("org--a+int8", "org--a", "int8"),
        ("org--a-GPTQ-4bit", "org--a", "gptq-4bit"),
        ("org--a-awq", "org--a@step5", "awq"),
        ("org--a-small", "org--a", "stored"),
    }
    assert precisions.orphans(models, precisions.lowered(models)) == [7]


def test_methods_stand_in_the_order_of_what_they_should_cost() -> None:
    names = {"gptq-4bit", "fp4", "int8", "nf4", "bfloat16", "nf4+bfloat16", "awq"}
    order = ["bfloat16", "int8", "nf4", "nf4+bfloat16", "fp4", "awq", "gptq-4bit"]
    assert precisions.ladder(names) == order


class Compared(str):
    """A text that counts how often it is compared."""

    times = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, other)


def test_the_work_grows_with_the_models_and_not_with_their_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = []
    for n in range(100):
        own = Compared(f"org/m{n}")
        models += [
            row(f"m{n}", id=own), row(f"m{n}", "nf4", id=own),
            row(f"m{n}-gptq", relation="quantized", base_model=(Compared(own),)),
        ]  # fmt: skip
    monkeypatch.setattr(Compared, "times", 0)
    assert len(precisions.lowered(models)) == 200
    assert Compared.times < 10 * len(models)

    calls = []

    def watched(models: list[Model]) -> list[precisions.Pair]:
        calls.append(len(models))
        return precisions.lowered(models)

    monkeypatch.setattr(precision_shift, "lowered", watched)
    loglik = -500 + np.random.default_rng(0).normal(0, 1, (len(models), 5))
    some = measured(tmp_path, models, loglik)
    assert [pair.method for pair in some.pairs[:2]] == ["nf4", "gptq"]
    assert calls == [300]


# How far


def test_shifts_are_those_written_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    full = rng.normal(-500, 40, 200)
    full[7] = -2000  # below the clip threshold of -900
    low = full + rng.normal(-0.5, 2, 200)
    some = measured(tmp_path, [row("a"), row("a", "nf4")], np.array([full, low]), 0.3)
    d = np.maximum(low, -900) - np.maximum(full, -900)
    centred = d - d.mean()
    np.testing.assert_allclose(vectors(some)[0], centred, atol=1e-9)
    assert some.kl[0] == pytest.approx(np.var(d) / UNIT)
    fourth = np.mean(centred**4) - np.mean(centred**2) ** 2
    assert some.se[0] == pytest.approx(math.sqrt(fourth / 200) / UNIT)
    assert some.floor[0] == pytest.approx(2 * 0.3**2 / UNIT)
    raw = full - low
    assert some.mean[0] == pytest.approx(raw.mean() / (BYTES * math.log(2)))
    error = raw.std(ddof=1) / math.sqrt(200) / (BYTES * math.log(2))
    assert some.mean_se[0] == pytest.approx(error)


@pytest.mark.filterwarnings("error")
def test_of_one_text_there_is_no_error_over_texts(tmp_path: Path) -> None:
    models, loglik = zoo(texts=1)
    some = measured(tmp_path, models, loglik)
    assert np.isnan(some.mean_se).all()
    tables = precision_tables.write(tmp_path, some)
    cells = files.read_tsv(tmp_path / "shift.tsv")
    assert {cell["mean_shift_se"] for cell in cells} == {""}
    assert "nan" not in {cell["mean_shift"] for cell in cells}
    cosines = precision_directions.cosines(some)
    precision_directions.write(tmp_path / "cosines.tsv", some, cosines)
    assert {cell["cosine"] for cell in files.read_tsv(tmp_path / "cosines.tsv")} == {""}
    figure_quantization.draw(some, tables, "demo").canvas.draw()
    figure_quantization_cosines.draw(some, cosines, "demo").canvas.draw()


def test_noise_alone_is_seldom_called_real(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    texts, noise, real = 250, 0.05, []
    models = [row(f"m{n}", variant) for n in range(150) for variant in ("", "int8")]
    base = rng.normal(-500, 40, (150, 1, texts))
    # Error bars as they are measured, on 64 texts.
    errors = rng.standard_t(5, (300, texts)) * noise / math.sqrt(5 / 3)
    bars = np.sqrt(np.mean(errors[:, :64] ** 2, axis=1))
    loglik = np.repeat(base, 2, axis=1).reshape(300, texts) + errors
    some = measured(tmp_path, models, loglik, bars)
    real.append(some.real.mean())
    assert some.known.all()
    assert some.real.mean() < 0.03
    assert np.median(some.kl) == pytest.approx(2 * noise**2 / UNIT, rel=0.1)


def test_a_shift_of_the_size_of_the_noise_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    texts, noise = 2000, 0.05
    base = rng.normal(-500, 40, texts)
    shift = rng.normal(0, 2 * noise, texts)
    errors = rng.normal(0, noise, (2, texts))
    loglik = np.array([base, base + shift]) + errors
    some = measured(tmp_path, [row("a"), row("a", "int8")], loglik, noise)
    assert some.real[0]
    assert some.kl[0] - some.floor[0] == pytest.approx(np.var(shift) / UNIT, rel=0.1)


def test_the_error_bar_of_quantised_weights_is_not_trusted_to_be_smaller(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    base = rng.normal(-500, 40, 1000)
    loglik = np.array([base, base]) + rng.normal(0, 0.05, (2, 1000))
    models = [row("a"), row("a", "int8")]
    assert not measured(tmp_path, models, loglik, np.array([0.05, 0.0])).real[0]
    assert measured(tmp_path, models, loglik, np.array([0.0, 0.0])).real[0]


def test_without_error_bars_nothing_is_said_of_noise(tmp_path: Path) -> None:
    models, loglik = zoo()
    some = measured(tmp_path, models, loglik, np.nan)
    assert not some.known.any()
    assert not some.real.any()
    precision_tables.write(tmp_path / "out", some)
    rows = files.read_tsv(tmp_path / "out" / "shift.tsv")
    assert {cell["real"] + cell["noise_floor"] + cell["kl_less_floor"] for cell in rows} == {""}
    verdicts = {cell["verdict"] for cell in files.read_tsv(tmp_path / "out" / "orderings.tsv")}
    assert verdicts == {"as expected"}


def test_selections_of_texts_are_refused(tmp_path: Path) -> None:
    models, loglik = zoo(texts=30)
    with gathered(*written(tmp_path, models, loglik)) as some:
        design = Design(np.ones(30), np.zeros(30), np.ones(30), 100)
        with pytest.raises(InputError, match="selection"):
            precision_shift.measure(replace(some, design=design))


# By method, in which order, by domain


def test_medians_and_orders(tmp_path: Path) -> None:
    models, loglik = zoo()
    some = measured(tmp_path, models, loglik)
    methods = precision_tables.by_method(some, draws=200)
    assert [item.name for item in methods] == ["int8", "nf4", "fp4"]
    for item in methods:
        kl = some.kl[some.of(item.name)]
        assert item.kl == pytest.approx(np.median(kl))
        assert item.low < item.kl < item.high
        assert (item.models, item.real) == (4, 4)
    assert methods == precision_tables.by_method(some, draws=200), "the same each time"
    orders = precision_tables.orders(some)
    assert len(orders) == 8
    assert {item.verdict for item in orders} == {"as expected"}
    one = next(item for item in orders if (item.full, item.first) == ("org--gpt-1", "nf4"))
    numbers = [
        next(n for n, pair in enumerate(some.pairs)
             if some.full(n).model == "org--gpt-1" and pair.method == method)
        for method in ("nf4", "fp4")
    ]  # fmt: skip
    pull = vectors(some)[numbers[1]] ** 2 - vectors(some)[numbers[0]] ** 2
    assert one.difference == pytest.approx(pull.mean() / UNIT)
    assert one.se == pytest.approx(pull.std() / math.sqrt(300) / UNIT)


def test_the_interval_of_one_model_is_that_of_its_texts(tmp_path: Path) -> None:
    models, loglik = zoo()
    some = measured(tmp_path, models[:2], loglik[:2])
    (item,) = precision_tables.by_method(some)
    assert (item.high - item.low) / 3.92 == pytest.approx(some.se[0], rel=0.15)


def test_an_order_that_fails_is_called_reversed_noise_or_undecided(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    base = rng.normal(-500, 40, 400)
    shift = rng.normal(0, 1, (2, 400))

    def verdict(first: float, second: float, noise: float) -> str:
        loglik = np.array([base, base + first * shift[0], base + second * shift[1]])
        models = [row("a"), row("a", "nf4"), row("a", "fp4")]
        return precision_tables.orders(measured(tmp_path, models, loglik, noise))[0].verdict

    assert verdict(1.0, 2.0, 0.01) == "as expected"
    assert verdict(2.0, 1.0, 0.01) == "reversed"
    assert verdict(1.0, 1.02, 0.01) == "undecided"
    assert verdict(1.0, 2.0, 5.0) == "noise"


def test_domains_add_up_and_the_one_that_suffers_is_named(tmp_path: Path) -> None:
    models, loglik = zoo()
    code = np.arange(300) % 3 == 0
    for place, model in enumerate(models):
        if model.variant == "fp4":
            loglik[place, code] -= 6 * np.abs(np.random.default_rng(place).normal(0, 1, 100))
    some = measured(tmp_path, models, loglik)
    parts = precision_tables.by_domain(some)
    for method in some.methods:
        own = [part for part in parts if part.method == method]
        assert sum(part.share for part in own) == pytest.approx(1)
    fp4 = {part.domain: part for part in parts if part.method == "fp4"}
    assert fp4["code"].share > 0.6 > 3 * fp4["code"].share_se
    rows = some.of("fp4")
    share = np.mean(
        [np.sum(vectors(some)[n, code] ** 2) / np.sum(vectors(some)[n] ** 2) for n in rows]
    )
    assert fp4["code"].share == pytest.approx(share)
    loss = losses(some)[rows][:, code].mean() / (600 * math.log(2))
    assert fp4["code"].mean_shift == pytest.approx(loss)
    assert fp4["code"].mean_shift > 5 * fp4["code"].mean_shift_se


def test_errors_of_shares_are_those_of_a_bootstrap(tmp_path: Path) -> None:
    models, loglik = zoo()
    some = measured(tmp_path, models, loglik)
    part = next(
        p for p in precision_tables.by_domain(some) if (p.method, p.domain) == ("nf4", "code")
    )
    rng, shares = np.random.default_rng(0), []
    code = np.arange(300) % 3 == 0
    for _ in range(400):
        drawn = rng.integers(0, 300, 300)
        squares = vectors(some)[some.of("nf4")][:, drawn] ** 2
        shares.append(np.mean(squares[:, code[drawn]].sum(axis=1) / squares.sum(axis=1)))
    assert part.share_se == pytest.approx(np.std(shares), rel=0.15)


# Directions


def test_cosines_their_errors_and_their_null(tmp_path: Path) -> None:
    models, loglik = zoo()
    some = measured(tmp_path, models, loglik)
    cosines = precision_directions.cosines(some)
    expected = np.corrcoef(vectors(some))
    np.testing.assert_allclose(cosines.between, expected, atol=1e-9)
    one, other = np.array([(pair.first, pair.second) for pair in cosines.pairs]).T
    np.testing.assert_allclose(cosines.cosine, expected[one, other], atol=1e-9)
    nf4 = some.of("nf4")[:2]
    first, second = vectors(some)[nf4]
    here = place(cosines, *nf4)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 300, 300) for _ in range(600)]
    boot = np.std([np.corrcoef(first[some_], second[some_])[0, 1] for some_ in drawn])
    assert cosines.se[here] == pytest.approx(boot, rel=0.12)
    signs = rng.choice([-1, 1], (4000, 300))
    size = np.sqrt(np.sum(first**2) * np.sum(second**2))
    null = np.std(signs @ (first * second) / size)
    assert cosines.null_sd[here] == pytest.approx(null, rel=0.05)


def test_unrelated_directions_stay_within_their_null(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    size = np.exp(rng.normal(0, 1, 400))  # large changes fall on the same texts
    base = rng.normal(-500, 40, 400)
    models = [row(f"m{n}", variant) for n in range(30) for variant in ("", "nf4")]
    loglik = np.array([base + (size * rng.normal(0, 1, 400) if n % 2 else 0) for n in range(60)])
    found = precision_directions.cosines(measured(tmp_path, models, loglik))
    assert len(found.pairs) == 30 * 29 / 2
    assert np.std(found.cosine / found.null_sd) == pytest.approx(1, abs=0.1)
    assert np.median(found.null_sd) > 1.5 / math.sqrt(400)


def test_what_only_the_length_of_texts_makes_alike_is_taken_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    lengths = np.tile([600, 700, 800], 200)[:600]
    base = rng.normal(-500, 40, 600)
    models = [row("a"), row("a", "nf4"), row("b"), row("b", "nf4")]
    loglik = np.array([base, base, base, base])
    loglik[[1, 3]] += -0.05 * lengths + rng.normal(0, 2, (2, 600))
    found = precision_directions.cosines(measured(tmp_path, models, loglik))
    assert found.cosine[0] > 0.6
    assert abs(found.beside_length[0]) < 0.15


def test_kinds_of_pairs_and_what_shared_noise_gives(tmp_path: Path) -> None:
    models, loglik = zoo()
    some = measured(tmp_path, models, loglik, 0.05)
    kinds = [item.kind for item in precision_directions.compared(some)]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "methods": 4 * 3, "family": 2 * 3, "families": 4 * 3,
    }  # fmt: skip
    item = next(i for i in precision_directions.compared(some) if i.kind == "methods")
    size = math.sqrt(some.kl[item.first] * some.kl[item.second])
    shared = precision_directions.shared_noise(some, item.first, item.second)
    assert shared == pytest.approx(0.05**2 / UNIT / size)
    other = next(i for i in precision_directions.compared(some) if i.kind == "family")
    assert precision_directions.shared_noise(some, other.first, other.second) == 0
    # Two rows that differ from full precision by noise alone are alike by the half of it.
    rng = np.random.default_rng(8)
    base = rng.normal(-500, 40, 2000)
    equal = base + rng.normal(0, 0.05, (3, 2000))
    rows = [row("a"), row("a", "int8"), row("a", "nf4")]
    noise = measured(tmp_path / "noise", rows, equal, 0.05)
    cosine = precision_directions.cosines(noise).cosine[0]
    assert precision_directions.shared_noise(noise, 0, 1) == pytest.approx(cosine, abs=0.08)


def test_many_pairs_of_a_method_are_a_sample_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [row(f"{family}-{n}", v) for family in "abc" for n in range(5) for v in ("", "nf4")]
    # Two repositories of one base model: two methods on it, and no two models of a family.
    models += [row("b-0-gptq", relation="quantized", base_model=("org/b-0",))]
    models += [row("b-0x-gptq", relation="quantized", base_model=("org/b-0",))]
    models += [row("c-1-gptq", relation="quantized", base_model=("org/c-1",))]
    loglik = -500 + np.random.default_rng(11).normal(0, 10, (len(models), 40))
    some = measured(tmp_path, models, loglik)
    every = {
        (first, second): ("methods" if one.full == other.full else
                          "family" if some.full(first).family == some.full(second).family else
                          "families")
        for second, other in enumerate(some.pairs) for first, one in enumerate(some.pairs[:second])
        if one.full == other.full or one.method == other.method
    }  # fmt: skip
    whole = precision_directions.compared(some)
    assert {(pair.first, pair.second): pair.kind for pair in whole} == every
    assert len(whole) == len(every)

    def totals(pairs: list[precision_directions.Compared]) -> dict[tuple[str, str], int]:
        return {(pair.kind, pair.methods): pair.of for pair in pairs}

    counted = Counter((pair.kind, pair.methods) for pair in whole)
    assert totals(whole) == counted
    monkeypatch.setattr(precision_directions, "MOST_PAIRS", 20)
    part = precision_directions.compared(some)
    assert set(part) < set(whole)
    assert totals(part) == counted
    assert Counter((pair.kind, pair.methods) for pair in part) == {
        key: number if key[0] == "methods" else min(number, 20) for key, number in counted.items()
    }
    assert part == precision_directions.compared(some), "the same each time"
    lines: list[str] = []
    monkeypatch.setattr(
        precision_directions.logger, "info", lambda text, *values: lines.append(text % values)
    )
    cosines = precision_directions.cosines(some)
    precision_directions.write(tmp_path / "cosines.tsv", some, cosines)
    cells = files.read_tsv(tmp_path / "cosines.tsv")
    assert {cell["pairs"] for cell in cells if cell["kind"] == "families"} == {"75", "2"}
    assert sorted(lines) == [
        "cosines.tsv: a random sample, 20 of 30 pairs of nf4 within families",
        "cosines.tsv: a random sample, 20 of 75 pairs of nf4 across families",
    ]
    monkeypatch.setattr(figure_quantization_cosines, "MOST_PAIRS", 20)
    figure = figure_quantization_cosines.draw(some, cosines, "demo")
    assert "at most 20 are compared, drawn at random" in said(figure)
    assert {"75", "30"} <= {text.get_text() for axes in figure.axes for text in axes.texts}


def said(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def test_a_picture_of_many_shifts_has_all_methods_of_some_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [row(f"{f}-{n}", v) for f in "ab" for n in range(9) for v in ("", "int8", "nf4")]
    loglik = -500 + np.random.default_rng(13).normal(0, 10, (len(models), 30))
    some = measured(tmp_path, models, loglik)
    assert len(precision_directions.cosines(some).shown) == 36
    monkeypatch.setattr(precision_directions, "MOST_SHOWN", 12)
    cosines = precision_directions.cosines(some)
    names = Counter(some.full(number).model for number in cosines.shown)
    assert set(names.values()) == {2}
    assert Counter(name[:6] for name in names) == {"org--a": 3, "org--b": 3}
    expected = np.corrcoef(vectors(some)[cosines.shown])
    np.testing.assert_allclose(cosines.between, expected, atol=1e-9)
    figure = figure_quantization_cosines.draw(some, cosines, "demo")
    assert "Left: 12 of 36 shifts" in said(figure)


def test_every_pair_is_as_likely_to_be_in_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_directions, "MOST_PAIRS", 3)
    low, high = np.array([0, 0, 0, 3, 3]), np.array([0, 1, 2, 3, 4])
    rng = np.random.default_rng(0)
    drawn = Counter(
        pair
        for _ in range(4000)
        for pair in map(tuple, precision_directions._drawn(low, high, rng)[0].tolist())
    )
    assert set(drawn) == {(0, 1), (0, 2), (1, 2), (3, 4)}
    assert all(count == pytest.approx(3000, rel=0.05) for count in drawn.values())


def test_memory_does_not_grow_with_models_times_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, loglik = zoo(texts=3000)
    for n in range(140):
        models += [row(f"m{n}"), row(f"m{n}", "nf4"), row(f"m{n}", "fp4")]
    rng = np.random.default_rng(12)
    loglik = np.vstack([loglik, rng.normal(-500, 20, (420, 3000))])
    small = 1 << 18
    for module in (precision_shift, precision_directions):
        monkeypatch.setattr(module, "ranges", partial(ranges, most=small), raising=False)
    monkeypatch.setattr(precision_directions, "MOST_PAIRS", 100, raising=False)
    some = measured(tmp_path, models, loglik)
    found = some.found
    tracemalloc.start()
    some = precision_shift.measure(found)
    precision_tables.write(tmp_path, some)
    cosines = precision_directions.cosines(some)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(some.pairs) == 292
    # Counts of 1,000 samples of the texts are 6 MB of it; all shifts are 7 MB, once.
    assert peak < 12e6
    monkeypatch.undo()
    # Blocks change nothing but the last digits.
    whole = precision_shift.measure(found)
    np.testing.assert_allclose(some.kl, whole.kl, rtol=1e-12)
    np.testing.assert_allclose(some.se, whole.se, rtol=1e-9)
    monkeypatch.setattr(precision_directions, "MOST_PAIRS", 100)
    np.testing.assert_allclose(
        precision_directions.cosines(whole).between, cosines.between, atol=1e-12
    )


# Files and figures


def test_the_script_reads_models_that_are_kept_off_the_map(tmp_path: Path) -> None:
    models, loglik = zoo(texts=90)
    low = [n for n, model in enumerate(models) if model.variant]
    high = [n for n, model in enumerate(models) if not model.variant]
    matrix, table = written(tmp_path, [models[n] for n in high], loglik[high])
    off, off_table = written(tmp_path, [models[n] for n in low], loglik[low], name="offmap")
    command = [sys.executable, str(SCRIPT), "--matrix", str(matrix), "--models", str(table)]

    def run(name: str, *more: str) -> dict[str, bytes]:
        folder = tmp_path / name
        subprocess.run([*command, *more, "--folder", str(folder)], check=True, capture_output=True)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    with_them = ["--offmap", str(off), "--offmap-models", str(off_table)]
    first = run("one", *with_them)
    assert sorted(first) == [
        "cosines.png", "cosines.svg", "cosines.tsv", "domains.tsv", "methods.tsv", "orderings.tsv",
        "shift.png", "shift.svg", "shift.tsv",
    ]  # fmt: skip
    assert first == run("two", *with_them), "the same input gives the same bytes"
    rows = files.read_tsv(tmp_path / "one" / "shift.tsv")
    assert len(rows) == 12
    assert {cell["real"] for cell in rows} == {"yes"}
    cosines = files.read_tsv(tmp_path / "one" / "cosines.tsv")
    family = [float(c["cosine"]) for c in cosines if (c["kind"], c["methods"]) == ("family", "nf4")]
    assert min(family) > 0.6
    alone = run("alone", "--offmap", "--offmap-models")
    assert alone["shift.tsv"].count(b"\n") == 1, "a header and no model"


@pytest.mark.parametrize("kept", [[], [0, 4], [0, 1], [0, 1, 2], list(range(16))])
def test_figures_of_none_one_and_many(tmp_path: Path, kept: list[int]) -> None:
    models, loglik = zoo(texts=60)
    kept = kept or [0]
    some = measured(tmp_path, [models[n] for n in kept], loglik[kept])
    tables = precision_tables.write(tmp_path, some)
    cosines = precision_directions.cosines(some)
    figures = [
        figure_quantization.draw(some, tables, "demo"),
        figure_quantization_cosines.draw(some, cosines, "demo"),
    ]
    for figure in figures:
        assert isinstance(figure, Figure)
        figure.canvas.draw()
    said = {text.get_text() for axes in figures[0].axes for text in axes.texts}
    assert (precision_shift.NOTHING in said) == (not some.pairs)


def test_a_model_that_its_precision_does_not_change(tmp_path: Path) -> None:
    base = np.random.default_rng(9).normal(-500, 40, 60)
    models = [row("a"), row("a", "int8"), row("a", "nf4")]
    loglik = np.array([base, base, base + np.random.default_rng(10).normal(0, 1, 60)])
    some = measured(tmp_path, models, loglik, 0.0)
    assert list(some.real) == [False, True]
    tables = precision_tables.write(tmp_path, some)
    cosines = precision_directions.cosines(some)
    precision_directions.write(tmp_path / "cosines.tsv", some, cosines)
    assert files.read_tsv(tmp_path / "cosines.tsv")[0]["cosine"] == ""
    figure_quantization.draw(some, tables, "demo").canvas.draw()
    figure_quantization_cosines.draw(some, cosines, "demo").canvas.draw()
