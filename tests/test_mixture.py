"""Mixtures: the greatest cosine, ways and intervals as slow oracles have them, runs that repeat."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from klmap import (
    bootstrap,
    figure_mixture,
    figure_mixture_check,
    layout,
    mixture,
    mixture_check,
    mixture_tables,
    mixture_ways,
    mixture_weights,
    models_table,
    store,
    zoo,
    zoo_mixture,
    zoo_runs,
    zoo_texts,
)
from klmap.arrays import Floats
from klmap.design import Design
from klmap.errors import InputError
from klmap.files import read_tsv, write_json, write_tsv
from klmap.geometry import double_centre
from klmap.layout import Report
from klmap.mixture import Mixture
from klmap.mixture_check import Check, End
from klmap.models_table import Model
from klmap.quality import Quality
from klmap.store_score import Score, read_score, write_score
from klmap.texts import read_texts

SCRIPTS = Path(__file__).parents[1] / "scripts"
TEXTS, BYTES = 240, 700.0
NAMES = ("code", "prose", "legal")
UNIT = BYTES * math.log(2)


@dataclass
class Part:
    """The face of an open matrix."""

    texts_sha256: str = "ab" * 32
    path: Path = Path("matrix.h5")


@dataclass
class Scored:
    """The face of gathered models, in memory."""

    models: list[Model]
    values: Floats
    clip_threshold: float = -1e9
    mean_bytes: float = BYTES
    design: Design | None = None
    noise: Floats = field(default_factory=lambda: np.zeros(0))
    parts: tuple[Part, ...] = (Part(),)

    def __post_init__(self) -> None:
        texts = self.values.shape[1]
        self.domain = [NAMES[number % 3] for number in range(texts)]
        self.n_bytes = np.random.default_rng(5).integers(300, 1000, texts).astype(np.int32)
        self.noise = np.full(len(self.models), 0.01)

    def loglik(self, rows: Any) -> Floats:
        return np.maximum(self.values[list(rows)], self.clip_threshold)

    def noise_floor(self, first: Any, second: Any) -> Floats:
        return (self.noise[first] ** 2 + self.noise[second] ** 2) / (2 * UNIT)


def directions(count: int = 3, texts: int = TEXTS, seed: int = 0) -> Floats:
    """Directions that have much in common, as those of probes do."""
    rng = np.random.default_rng(seed)
    found: Floats = rng.normal(0, 20, (count, texts)) + rng.normal(0, 20, texts)
    return found - found.mean(axis=1, keepdims=True)


def scored(away: Floats, probes: Floats, **changes: Any) -> Any:
    """A base, a target that lies so from it, and probes; each with a level of its own."""
    rng = np.random.default_rng(1)
    base = -700 + rng.normal(0, 60, away.shape)
    levels = np.array([0, 50, *rng.normal(0, 30, len(probes))])
    values = np.vstack([base, base + away, base + probes]) + levels[:, None]
    names = ["base", "target", *(f"probe-{name}" for name in NAMES[: len(probes)])]
    return Scored([Model(f"demo--{name}", id=f"demo/{name}") for name in names], values, **changes)


def plans(known: dict[str, float] | None = None, probes: bool = True) -> str:
    named = {name: f"demo/probe-{name}" for name in NAMES} if probes else {}
    asked = {"base": "demo/base", "target": "demo--target", "probes": named, "known": known or {}}
    return json.dumps({"towards": asked})


def only(found: Any, known: dict[str, float] | None = None, probes: bool = True) -> Mixture:
    (result,) = mixture.measure(found, mixture.read_plans(plans(known, probes), found), 20, 1)
    return result


def cosine(weights: Any, v: Floats, r: Floats) -> float:
    way = np.asarray(weights) @ v
    return float(way @ r / np.linalg.norm(way) / np.linalg.norm(r))


@pytest.mark.parametrize("seed", range(4))
def test_no_weights_of_a_fine_grid_have_a_greater_cosine(seed):
    v = directions(seed=seed)
    r = np.array([0.6, 0.5, -0.3]) @ v + np.random.default_rng(seed).normal(0, 20, TEXTS)
    found = mixture.solve(v, r)
    grid = [
        (a / 60, b / 60, (60 - a - b) / 60)
        for a, b in itertools.product(range(61), repeat=2)
        if a + b <= 60
    ]
    best = max(cosine(weights, v, r) for weights in grid)
    assert found.cosine >= best
    assert found.cosine == pytest.approx(best, abs=1e-3)
    assert found.cosine == pytest.approx(cosine(found.weights, v, r), abs=1e-12)
    assert found.weights.sum() == pytest.approx(1)
    assert found.weights.min() >= 0


@pytest.mark.parametrize("seed", range(3))
def test_a_general_optimiser_on_the_simplex_finds_the_same_weights(seed):
    rng = np.random.default_rng(seed)
    v = directions(7, seed=seed)
    r = rng.normal(0.1, 0.3, 7) @ v + rng.normal(0, 10, TEXTS)
    slow = scipy.optimize.minimize(
        lambda w: -cosine(w, v, r), np.full(7, 1 / 7), method="SLSQP", bounds=[(0, 1)] * 7,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    found = mixture.solve(v, r)
    assert found.cosine >= -slow.fun - 1e-9
    np.testing.assert_allclose(found.weights, slow.x, atol=2e-3)


def test_weights_do_not_depend_on_the_unit_nor_on_the_sizes_of_other_directions():
    v, r = directions(), directions(1, seed=9)[0]
    found = mixture.solve(v, r)
    tiny = mixture.solve(v * 1e-9, r * 1e-9)
    np.testing.assert_allclose(tiny.weights, found.weights, rtol=1e-9)
    with_none = mixture.solve(np.vstack([v, np.zeros(TEXTS), v[0] * 1e-7]), v[1] + v[2])
    np.testing.assert_allclose(with_none.weights, [0, 0.5, 0.5, 0, 0], atol=1e-9)


def test_a_target_on_the_way_is_recovered_with_its_length():
    v = directions()
    found = only(scored(1.7 * np.array([0.5, 0.2, 0.3]) @ v, v))
    np.testing.assert_allclose(found.found.weights, [0.5, 0.2, 0.3], atol=1e-9)
    assert found.found.length == pytest.approx(1.7)
    assert found.found.cosine == pytest.approx(1)
    assert found.end[0] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose([found.low, found.high], [[0.5, 0.2, 0.3]] * 2, atol=1e-9)


def test_a_mixture_of_log_linear_tilts_is_recovered_exactly():
    """Training as it would be if it were log-linear: p_w ~ p_0 exp(sum w_d u_d)."""
    rng = np.random.default_rng(3)
    outcomes = 5000
    base = rng.dirichlet(np.ones(outcomes))
    tilts = rng.normal(0, 0.5, (3, outcomes))
    known = np.array([0.5, 0.3, 0.2])

    def log_of(tilt: Floats) -> Floats:
        tilted = base * np.exp(tilt)
        return np.log(tilted / tilted.sum())

    drawn = rng.choice(outcomes, TEXTS, p=base)
    rows = [log_of(tilt)[drawn] for tilt in (0 * tilts[0], known @ tilts, *tilts)]
    found = only(Scored(scored(rows[1], np.array(rows[2:])).models, np.array(rows)))
    np.testing.assert_allclose(found.found.weights, known, atol=1e-9)


def test_where_every_mixture_leads_away_the_table_says_so(tmp_path):
    v = np.abs(directions()) + 30
    v -= v.mean(axis=1, keepdims=True)
    v += 20 * directions(1, seed=4)
    found = only(scored(-v.mean(axis=0), v))
    assert found.found.is_none
    assert found.end == found.kl
    mixture_tables.write(tmp_path, [found])
    (plan,) = read_tsv(tmp_path / "plans.tsv")
    assert plan["note"] == "every mixture of these domains leads away from the target"
    assert (plan["length"], plan["cosine"]) == ("0", "0")
    assert [row["weight"] for row in read_tsv(tmp_path / "weights.tsv")] == ["0"] * 3
    with pytest.raises(InputError, match="check to false"):
        mixture_weights.read_weights(tmp_path / "weights.tsv", "towards")
    figure_mixture.draw_weights([found], "demo")
    figure_mixture.draw_path([found], "demo")


def test_equal_models_have_no_mixture(tmp_path):
    v = directions()
    models = scored(v[0], v)
    models.values[1] = models.values[0]
    found = only(models)
    assert found.note == "base and target have the same log-likelihoods"
    mixture_tables.write(tmp_path, [found])
    assert read_tsv(tmp_path / "plans.tsv")[0]["cosine"] == ""
    figure_mixture.write(tmp_path, [found], "demo")


def test_the_way_is_the_kl_of_what_is_left_and_the_parts_add_up():
    v = directions()
    r = v[0] + np.random.default_rng(2).normal(0, 25, TEXTS)
    models = scored(r, v)
    found = only(models)
    base, target, *probes = models.values
    for step in (0, 3, 10):
        length = found.found.length * step / 10
        here = base + length * sum(
            w * (probe - base) for w, probe in zip(found.found.weights, probes, strict=True)
        )
        kl = np.var(target - here) / (2 * UNIT)
        assert found.path[step, 0] == pytest.approx(kl)
        assert found.parts[step].sum() == pytest.approx(kl)
        apart = target - here - (target - here).mean()
        legal = [apart[s] ** 2 for s in range(TEXTS) if models.domain[s] == "legal"]
        part = found.parts[step][found.domains.names.index("legal")]
        assert part == pytest.approx(sum(legal) / (2 * TEXTS * UNIT))
    assert found.kl[0] > found.end[0]
    assert found.share == pytest.approx(1 - found.end[0] / found.kl[0])
    assert found.cosine_uniform == pytest.approx(cosine(np.full(3, 1 / 3), v, r))


def test_intervals_are_those_of_solving_drawn_texts_one_by_one():
    v = directions()
    r = np.array([0.5, 0.2, 0.3]) @ v + np.random.default_rng(2).normal(0, 25, TEXTS)
    found = only(scored(r, v))
    weights = []
    for replicate in range(20):
        texts = np.repeat(np.arange(TEXTS), bootstrap.draw(TEXTS, 1, replicate))
        some = np.vstack([v, r])[:, texts]
        some -= some.mean(axis=1, keepdims=True)
        weights.append(mixture.solve(some[:-1], some[-1]).weights)
    low, high = np.percentile(weights, (2.5, 97.5), axis=0)
    np.testing.assert_allclose(found.low, low, atol=1e-9)
    np.testing.assert_allclose(found.high, high, atol=1e-9)
    assert (found.low < found.found.weights).all()
    assert (found.found.weights < found.high).all()


def test_without_probes_a_length_is_in_bits_per_byte_of_the_texts_of_a_domain():
    models = scored(np.zeros(TEXTS), directions())
    code, legal = (np.array([name == wanted for name in models.domain]) for wanted in NAMES[::2])
    gain = (0.3 * code + 0.1 * legal) * models.n_bytes * math.log(2)
    models.values[1] = models.values[0] + gain - 12
    found = only(models, probes=False)
    assert found.plan.domains == ("code", "legal", "prose")
    np.testing.assert_allclose(found.found.weights, [0.75, 0.25, 0], atol=1e-9)
    assert found.found.length == pytest.approx(0.4)
    assert (found.plan.directions, found.probes) == ("texts", ())


def test_log_likelihoods_are_clipped_as_on_the_map():
    v = directions()
    models = scored(v[0], v, clip_threshold=-760.0)
    raised = np.maximum(models.values, -760)
    r, ways = raised[1] - raised[0], raised[2:] - raised[0]
    expected = mixture.solve(mixture.centred(ways), mixture.centred(r[None])[0])
    np.testing.assert_allclose(only(models).found.weights, expected.weights)


def test_selections_of_texts_are_refused():
    v = directions()
    models = scored(v[0], v, design=Design(np.ones(3), np.zeros(3), np.ones(3), 3))
    with pytest.raises(InputError, match="leave mixture out for selections"):
        mixture.measure(models, [], 2, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "demo/targt"}, r"plans\.towards\.target: no model 'demo/targt'.*demo/target"),
        ({"probes": {"code": "nobody"}}, r"plans\.towards\.probes\.code: no model 'nobody'"),
        ({"target": "demo--base"}, "base and target are the same model, demo--base"),
        ({"known": {"verse": 1.0}}, "known: verse: no such domain; the directions are of code"),
        ({"base": None}, "no model 'None'"),
    ],
)
def test_what_a_plan_names_and_is_not_there_is_told(change, message):
    v = directions()
    asked = json.loads(plans())
    asked["towards"] |= change
    with pytest.raises(InputError, match=message):
        mixture.read_plans(json.dumps(asked), scored(v[0], v))
    with pytest.raises(InputError, match=r"--plans: .*expected JSON of names"):
        mixture.read_plans('{"a": {"base": "x"}}', scored(v[0], v))


def report(method: str = "tsne") -> Report:
    quality = Quality(0, 1.0, 1.0, 0, 0)
    return Report(
        "", method, "euclidean", 5, 1, 1000, "", "", quality, None, "fresh"  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_ways_begin_at_the_base_and_lead_to_the_models_that_they_come_near(method):
    rng = np.random.default_rng(7)
    v = directions()
    near = 2 * v[2] + rng.normal(0, 4, (12, TEXTS))
    around = rng.normal(0, 4, (12, TEXTS))
    models = scored(2 * v[2], v)
    values = np.vstack([models.values[:2], models.values[0] + np.vstack([near, around])])
    values = np.vstack([values, models.values[2:]])
    names = [*models.models[:2], *(Model(f"m{n}") for n in range(24)), *models.models[2:]]
    found = Scored(names, values)
    (towards,) = mixture.measure(found, mixture.read_plans(plans(), found), 2, 1)
    places = rng.normal(0, 0.5, (26, 2))
    places[[1, *range(2, 14)], 0] += 10
    ((begin, end),) = mixture_ways.find(found, [towards], places, report(method))
    np.testing.assert_array_equal(begin, places[0])
    assert end[0] - begin[0] > 5
    assert abs(end[1] - begin[1]) < 3


def test_a_base_off_the_map_has_a_way_too(tmp_path):
    rng = np.random.default_rng(0)
    v = directions()
    models = scored(2 * v[2], v)
    others = models.values[0] + rng.normal(0, 4, (8, TEXTS))
    names = [Model(f"m{n}") for n in range(8)]
    found = Scored([*names, *models.models], np.vstack([others, models.values]))
    (towards,) = mixture.measure(found, mixture.read_plans(plans(), found), 2, 1)
    ways = mixture_ways.find(found, [towards], rng.normal(0, 1, (8, 2)), report())
    assert np.isfinite(ways).all()
    mixture_ways.write(tmp_path / "ways.tsv", [towards], ways)
    rows = read_tsv(tmp_path / "ways.tsv")
    assert [(row["group"], row["model"], row["step"]) for row in rows] == [
        ("towards", "demo--base", "0"), ("towards", "demo--base", "1"),
    ]  # fmt: skip
    assert "legal 100 %" in rows[1]["label"]


def test_a_plan_without_a_mixture_has_no_way(tmp_path):
    v = directions()
    models = scored(v[0], v)
    models.values[1] = models.values[0]
    found = only(models)
    ways = mixture_ways.find(scored(v[0], v), [found], np.zeros((5, 2)), report())
    mixture_ways.write(tmp_path / "ways.tsv", [found], ways)
    assert read_tsv(tmp_path / "ways.tsv") == []


def test_weights_are_read_back_with_the_sum_one(tmp_path):
    columns = mixture_tables.WEIGHT_COLUMNS
    rows = [
        ("p", name, f"{w:.2f}", 0, 1, "", "")
        for name, w in zip(NAMES, (0.33, 0.33, 0.33), strict=True)
    ]
    write_tsv(tmp_path / "weights.tsv", columns, rows)
    found = mixture_weights.read_weights(tmp_path / "weights.tsv", "p")
    assert list(found) == list(NAMES)
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-15)
    uniform = mixture_weights.read_weights(tmp_path / "weights.tsv", "p", "uniform")
    assert set(uniform.values()) == {1 / 3}
    with pytest.raises(InputError, match="no plan 'q'"):
        mixture_weights.read_weights(tmp_path / "weights.tsv", "q")


# The demo zoo


def test_recipes_of_earlier_runs_are_the_same_to_the_letter():
    """Snakemake compares them: another letter, and everybody's demo is trained again."""
    names = [name for name, run in zoo_runs.RUNS.items() if type(run) is zoo_runs.Run]
    text = repr([zoo_runs.RUNS[name] for name in names])
    assert len(names) == 23
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "bceb9ff22a583f41ff8db0ac5ce64604c1eaf4795133a7b7c39f5a09b5af05a5"
    )


def test_the_zoo_has_a_probe_of_every_domain_and_a_model_of_a_known_mixture():
    mixed = zoo_runs.RUNS["gpt2-mixed"]
    assert isinstance(mixed, zoo_runs.MixedRun)
    assert dict(mixed.mixture) == {"python": 0.5, "licences": 0.3, "docstrings": 0.2}
    assert "mixture=" in repr(mixed)
    for domain in zoo_runs.DOMAINS:
        probe = zoo_runs.RUNS[f"gpt2-probe-{domain}"]
        assert isinstance(probe, zoo_runs.MixedRun)
        assert probe.mixture == ((domain, 1.0),)
        assert (probe.steps, probe.learning_rate) == (mixed.steps, mixed.learning_rate)
    again = zoo_runs.mixed(zoo_runs.RUNS["llama-code"], "x", {"python": 1.0}, "step15")
    assert again.learning_rate == zoo_runs.RUNS["llama-code"].learning_rate
    assert again.parents == ("llama-code@step15",)
    merge = zoo_runs.mixed(zoo_runs.RUNS["llama-code-prose"], "x", {"python": 1.0})
    assert merge.learning_rate == again.learning_rate


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A corpus of three domains, tokenizers, texts to score, and a small base."""
    folder = tmp_path_factory.mktemp("workshop")
    rng = np.random.default_rng(0)
    (folder / "corpus").mkdir()
    texts = []
    for name in NAMES:
        words = [f"{name[:2]}{number}" for number in range(200)]
        documents = [" ".join(rng.choice(words, 400)) for _ in range(40)]
        lines = [json.dumps({"text": text, "origin": name}) + "\n" for text in documents]
        (folder / "corpus" / f"{name}.jsonl").write_text("".join(lines))
        texts += [(name, " ".join(rng.choice(words, 80))) for _ in range(8)]
    zoo_texts.write_tokenizers(folder / "corpus", folder / "tokenizers")
    rows = [
        {"index": number, "text": text, "domain": name, "n_bytes": len(text), "origin": ""}
        for number, (name, text) in enumerate(texts)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "texts.jsonl").write_text(text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    write_json(folder / "texts.json", {"n": len(rows), "sha256": sha256, "recipe": {}})
    run, places = zoo_runs.RUNS["gpt2-base"], (folder / "corpus", folder / "tokenizers")
    zoo.build(run, *places, [], folder / "runs" / "gpt2-base", zoo.Scale(0.04))
    rows = [
        ("p", name, weight, 0, 1, "", "")
        for name, weight in zip(NAMES, (0.75, 0, 0.25), strict=True)
    ]
    write_tsv(folder / "weights.tsv", mixture_tables.WEIGHT_COLUMNS, rows)
    return folder


def passages(workshop: Path, run: zoo_runs.Run, steps: int) -> list[tuple[int, ...]]:
    found = zoo.sequences(run, workshop / "corpus", workshop / "tokenizers/bytelevel", steps)
    return [tuple(row) for row in found.view(-1, zoo.PASSAGE_TOKENS).tolist()]


def test_runs_read_the_shares_of_their_mixture_and_the_same_passages_first(workshop):
    base = zoo_runs.RUNS["gpt2-base"]
    probes = {
        name: passages(workshop, zoo_runs.mixed(base, name, {name: 1.0}), 10) for name in NAMES
    }
    shares = {"code": 0.5, "prose": 0.3, "legal": 0.2}
    mixed = passages(workshop, zoo_runs.mixed(base, "mixed", shares), 10)
    for name, share in shares.items():
        mine = [passage for passage in mixed if passage in set(probes[name])]
        assert len(mine) == round(40 * share)
        assert mine == probes[name][: len(mine)]
    with pytest.raises(InputError, match="the corpus has no domain verse; it has code, legal"):
        passages(workshop, zoo_runs.mixed(base, "x", {"verse": 1.0}), 1)


def train(workshop: Path, name: str, kind: Any = "found") -> Path:
    spec = {"dtype": "auto", "prefix": "default", "overlength": "window", "quantization": None}
    zoo_mixture.train_and_score(
        workshop / "weights.tsv", "p", kind, workshop / "runs/gpt2-base/main",
        workshop / "corpus", workshop / "texts.jsonl", workshop / "texts.json", spec,
        workshop / name,
    )  # fmt: skip
    return workshop / name


def test_a_base_is_trained_on_and_scored(workshop):
    first, uniform = train(workshop, "one"), train(workshop, "two", "uniform")
    zoo_mixture.train(
        workshop / "weights.tsv", "p", "found", workshop / "runs/gpt2-base/main",
        workshop / "corpus", workshop / "again",
    )  # fmt: skip
    folders = first / "model", workshop / "again", uniform / "model"
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1] != weights[2]
    assert sorted(path.name.partition(".")[0] for path in first.glob("*")) == [
        "card", "model", "p-found",
    ]  # fmt: skip
    card = (first / "model/README.md").read_text()
    assert "gpt2-base trained on under the mixture 75 % `code`, 25 % `legal`." in card
    scores = [read_score(next(folder.glob("*.h5"))) for folder in (first, uniform)]
    domain = np.array(
        [text.domain for text in read_texts(workshop / "texts.jsonl", workshop / "texts.json")]
    )
    gain = scores[0].loglik - scores[1].loglik
    assert gain[domain == "code"].mean() > 0 > gain[domain == "prose"].mean()


def test_other_bases_are_not_trained(workshop, tmp_path):
    with pytest.raises(InputError, match=r"no model of the demo zoo.*train other bases"):
        zoo_mixture.train(
            workshop / "weights.tsv", "p", "found", tmp_path / "mine/main", workshop / "corpus",
            tmp_path / "out",
        )  # fmt: skip


# The check


def score(folder: Path, loglik: Floats, sha256: str = "ab" * 32) -> Path:
    texts = len(loglik)
    found = Score(
        "p-found", "c0ffee", sha256, "0" * 12, {}, attributes={"noise_nats": 0.02}, loglik=loglik,
        n_tokens=np.full(texts, 9, np.int32), n_scored=np.full(texts, 8, np.int32),
        truncated=np.zeros(texts, np.bool_),
    )  # fmt: skip
    folder.mkdir(parents=True)
    write_score(folder / "p-found.000000000000.h5", found)
    return folder


def test_the_check_measures_the_distance_that_the_map_would(tmp_path):
    v = directions()
    models = scored(np.array([0.5, 0.2, 0.3]) @ v, v, clip_threshold=-800.0)
    found = only(models)
    mixture_tables.write(tmp_path, [found])
    base, target = models.values[:2]
    rng = np.random.default_rng(4)
    ends = {"found": target + rng.normal(0, 5, TEXTS), "uniform": target + rng.normal(0, 9, TEXTS)}
    trained = {"towards": {kind: score(tmp_path / kind, row) for kind, row in ends.items()}}
    (plan,) = mixture.read_plans(plans(), models)
    (check,) = mixture_check.check(models, [plan], tmp_path / "weights.tsv", trained)
    assert check.is_nearer
    for end, row in zip(check.ends, (base, ends["uniform"], ends["found"]), strict=True):
        apart = np.maximum(row, -800) - np.maximum(target, -800)
        squares = (apart - apart.mean()) ** 2
        assert end.kl == pytest.approx(np.var(apart) / (2 * UNIT))
        assert end.se == pytest.approx(squares.std() / math.sqrt(TEXTS) / (2 * UNIT))
    assert check.ends[1].nearer == (0, 0)
    assert check.ends[2].nearer[0] == pytest.approx(check.ends[1].kl - check.ends[2].kl)
    assert check.ends[0].expected == pytest.approx(check.ends[0].kl)
    clipped = np.maximum(models.values, -800)
    after_one = clipped[0] + found.found.weights @ (clipped[2:] - clipped[0])
    expected = np.var(clipped[1] - after_one) / (2 * UNIT)
    assert check.ends[2].expected == pytest.approx(expected, rel=1e-4)
    assert check.ends[1].expected > check.ends[2].expected
    mixture_check.write(tmp_path / "check.tsv", [check])
    rows = read_tsv(tmp_path / "check.tsv")
    assert [row["kind"] for row in rows] == ["base", "uniform", "found"]


def test_scores_of_other_texts_and_missing_ones_are_refused(tmp_path):
    v = directions()
    models = scored(v[0], v)
    mixture_tables.write(tmp_path, [only(models)])
    plan = mixture.read_plans(plans(), models)
    other = score(tmp_path / "other", models.values[0], "cd" * 32)
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (other, "of other texts than matrix.h5"),
        (tmp_path / "empty", "0 score"),
    ):
        trained = {"towards": {"found": folder, "uniform": folder}}
        with pytest.raises(InputError, match=message):
            mixture_check.check(models, plan, tmp_path / "weights.tsv", trained)
    with pytest.raises(InputError, match="no models of the plan 'towards'"):
        mixture_check.check(models, plan, tmp_path / "weights.tsv", {})
    with pytest.raises(InputError, match="--trained"):
        mixture_check.read_trained('{"p": {"found": "x"}}')


# What is written


def test_figures_have_room_for_many_plans():
    v = directions()
    found = only(scored(v[0] + 0.3 * v[1], v), {"code": 0.7, "prose": 0.3})
    for number in (0, 1, 11):
        assert figure_mixture.draw_weights([found] * number, "demo").axes
        assert figure_mixture.draw_path([found] * number, "demo").axes
    ends = tuple(
        End(kind, kl, 0.1, math.nan, (1.0, 0.1), math.nan)
        for kind, kl in (("base", 3.0), ("uniform", 2.0), ("found", 1.0))
    )
    check = Check("towards", "base", "target", {"code": 1.0}, ends)
    for number in (0, 20):
        assert figure_mixture_check.draw([check] * number, 240, "demo").axes


def test_the_script_writes_the_same_bytes_every_time(tmp_path):
    v = directions()
    models = scored(np.array([0.5, 0.2, 0.3]) @ v, v)
    values = np.vstack(
        [models.values, models.values[0] + np.random.default_rng(1).normal(0, 9, (4, TEXTS))]
    )
    names = [*models.models, *(Model(f"m{n}") for n in range(4))]
    centred = double_centre(values, -1e9).astype(np.float32)
    matrix = store.Matrix(
        values, centred, [each.model for each in names], models.domain, models.n_bytes, 0.02, -1e9,
        BYTES, "ab" * 32, np.zeros(len(names)),
    )  # fmt: skip
    store.write_matrix(tmp_path / "matrix.h5", matrix)
    models_table.write_models(tmp_path / "models.tsv", names)
    places = [(each.model, number, -number, "tsne-euclidean") for number, each in enumerate(names)]
    write_tsv(tmp_path / "layout.tsv", ("model", "x", "y", "method"), places)
    layout.write_report(tmp_path / "layout.json", report())
    written = []
    for name in ("one", "two"):
        subprocess.run(
            [sys.executable, SCRIPTS / "mixture.py", "--matrix", tmp_path / "matrix.h5",
             "--models", tmp_path / "models.tsv", "--layout", tmp_path / "layout.tsv", "--plans",
             plans({"code": 0.5, "prose": 0.2, "legal": 0.3}), "--bootstrap", "5", "--folder",
             tmp_path / name],
            check=True, capture_output=True,
        )  # fmt: skip
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert sorted(written[0]) == [
        "path.png", "path.svg", "path.tsv", "plans.tsv", "ways.tsv", "weights.png", "weights.svg",
        "weights.tsv",
    ]  # fmt: skip
    rows = read_tsv(tmp_path / "one" / "weights.tsv")
    assert [(row["domain"], row["weight"], row["known"]) for row in rows] == [
        ("code", "0.5", "0.5"), ("prose", "0.2", "0.2"), ("legal", "0.3", "0.3"),
    ]  # fmt: skip
