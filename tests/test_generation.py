"""KLs from what models write: sampling, scoring, the job of a pair, and the comparison."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare

from klmap import (
    figure_generation,
    generation,
    mauve_score,
    scorer_generate,
    scorer_responses,
    scorer_samples,
    store_samples,
    true_kl,
)
from klmap.arrays import Floats
from klmap.config import fingerprint
from klmap.errors import InputError, PermanentFailure
from klmap.files import read_tsv
from klmap.generation import Generation, Measured, Pair, summarise
from klmap.models_table import Model
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_load import load_weights
from klmap.scorer_pair import Side
from klmap.scorer_precision import prepare
from klmap.scorer_samples import Job
from klmap.store_samples import TEXT, TOKENS, Samples, read_samples
from klmap.true_kl import RELATIONS, Value
from tests.builders import tiny_model
from tests.oracle import exact_model, make_job
from tests.test_divergence import table_model
from tests.test_true_kl import Project, noisy

ROOT = Path(__file__).parent.parent
PROMPTS = ["The map of", "def area(", "A line of text", "one two", "for model in"]
END = 0
"""Id of <|endoftext|> in the tokenizers of the builders."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    prepare("cpu", 1)


def pair_job(
    folder: Path,
    models: Sequence[Path],
    prompts: Sequence[str | None] = PROMPTS,
    number: int = 3,
    samples: int = 3,
    tokens: int = 12,
    specs: Sequence[dict[str, Any]] = ({}, {}),
    **changes: Any,
) -> Job:
    """The job of one pair of model folders, with everything that it reads."""
    made = [
        make_job(folder / f"side{place}", model, **spec)
        for place, (model, spec) in enumerate(zip(models, specs, strict=True))
    ]
    rows = [
        {
            "index": place, "text": " it goes on.", "domain": "all", "n_bytes": 12,
            "messages": [{"role": "user", "content": prompt or "Tell me."}], "prompt": prompt,
        }
        for place, prompt in enumerate(prompts)
    ]  # fmt: skip
    data = "".join(json.dumps(row) + "\n" for row in rows)
    texts, manifest = folder / "texts.jsonl", folder / "texts.json"
    texts.write_text(data)
    manifest.write_text(json.dumps({"sha256": hashlib.sha256(data.encode()).hexdigest()}))
    sides = [
        Side(one.card, one.weights, f"demo--m{place}", one.spec) for place, one in enumerate(made)
    ]
    spec = {"kind": "samples", "number": number, "samples": samples, "tokens": tokens}
    spec |= {"pair": [one.spec for one in made], **changes.pop("more", {})}
    name = f"demo--m0~demo--m1.{fingerprint(spec)}.h5"
    job = Job(
        sides=(sides[0], sides[1]), texts=texts, manifest=manifest, prompts=number,
        samples=samples, tokens=tokens, spec=spec, output=folder / "samples" / name, device="cpu",
    )  # fmt: skip
    return dataclasses.replace(job, **changes)


def sampled(job: Job) -> Samples:
    scorer_samples.samples(job)
    return read_samples(job.output)


def small_table(folder: Path, seed: int) -> tuple[Path, Floats]:
    """A model whose next token depends on the last one alone, with one of seven likely ones."""
    folder, _ = table_model(folder, seed, size=512)
    rng = np.random.default_rng(seed)
    probabilities = np.full((512, 512), 1e-7)
    likely = [END, 70, 71, 72, 73, 74, 75]
    probabilities[:, likely] = rng.dirichlet(np.ones(7), 512)
    logs = np.log(probabilities / probabilities.sum(1, keepdims=True))
    weights = load_file(folder / "model.safetensors")
    head = next(name for name in weights if "lm_head" in name)
    weights[head] = torch.tensor(logs.T.copy() / math.sqrt(512)).float()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, logs


def exact_kl(p: Floats, q: Floats, last: int, count: int) -> float:
    """KL of two Markov chains that end with ``END`` or behind ``count`` tokens."""
    each = (np.exp(p) * (p - q)).sum(axis=1)
    state, total = np.zeros(len(p)), 0.0
    state[last] = 1.0
    for _ in range(count):
        total += float(state @ each)
        state = state @ np.exp(p)
        state[END] = 0.0
    return total


def last_ids(job: Job) -> list[int]:
    """The last token of each prompt."""
    from klmap import tokens

    tokenizer = tokens.load_tokenizer(job.sides[0].weights)
    return [ids[-1] for ids in tokenizer.engine.encode(PROMPTS)]


# Sampling


def test_draws_have_the_frequencies_of_the_model() -> None:
    probabilities = np.array([0.5, 0.2, 0.0, 0.2, 0.1])
    logits = torch.tensor(np.log(np.maximum(probabilities, 1e-300)) + 3.0)
    logits[2] = -math.inf
    count = 20_000
    uniform = torch.from_numpy(np.random.default_rng(1).random(count))
    found = np.bincount(scorer_generate.draw(logits.expand(count, 5), uniform).numpy(), minlength=5)
    assert found[2] == 0
    keep = probabilities > 0
    assert chisquare(found[keep], probabilities[keep] * count).pvalue > 1e-3
    # Halving the temperature squares the probabilities.
    cold = np.bincount(
        scorer_generate.draw(logits.expand(count, 5), uniform, 0.5).numpy(), minlength=5
    )
    expected = probabilities**2 / (probabilities**2).sum() * count
    assert chisquare(cold[keep], expected[keep]).pvalue > 1e-3


def test_the_ends_of_the_unit_interval_draw_tokens_that_have_a_probability() -> None:
    logits = torch.tensor([[-math.inf, 0.0, 1.0, -math.inf]] * 2)
    uniform = torch.tensor([0.0, math.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert scorer_generate.draw(logits, uniform).tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "mamba2", "rwkv"])
def test_a_cache_changes_nothing_that_is_written(tmp_path: Path, kind: str) -> None:
    model = CausalModel(load_weights(tiny_model(tmp_path / kind, kind), "float32", "cpu"))
    prompt = [5, 17, 300, 41, 8]
    writer = scorer_generate.Writer(model, 512, [END], 1.0, prompt)
    numbers = np.random.default_rng(0).random((4, 40))
    found = writer.write(prompt, numbers)
    assert writer.cached == (kind != "rwkv")  # which keeps its state under another name
    writer.cached = False
    assert writer.write(prompt, numbers) == found
    alone = [writer.write(prompt, row[None])[0] for row in numbers]
    assert alone == found
    assert all(END not in row[:-1] for row in found)


# Scoring


def test_the_mean_log_ratio_converges_to_the_exact_kl(tmp_path: Path) -> None:
    (one, p), (other, q) = (small_table(tmp_path / f"t{seed}", seed) for seed in (1, 2))
    job = pair_job(tmp_path, (one, other), number=5, samples=400, tokens=6)
    found = sampled(job)
    assert found.attributes["scored_as"] == TOKENS
    starts = last_ids(job)
    errors = []
    for side, (ours, theirs) in enumerate(((p, q), (q, p))):
        mine = found.source == side
        ratio = (found.loglik[side] - found.loglik[1 - side])[mine]
        exact = np.array([exact_kl(ours, theirs, last, 6) for last in starts])[found.prompt[mine]]
        steps = found.steps[mine]
        assert abs((ratio - exact).mean()) < 4 * ratio.std() / math.sqrt(len(ratio))
        assert abs((steps - exact).mean()) < 4 * steps.std() / math.sqrt(len(steps))
        assert steps.std() < ratio.std()
        errors.append(ratio - exact)
    # A hundred times as many samples, a tenth of the error.
    spread = [
        np.std([part.mean() for error in errors for part in np.split(error, len(error) // size)])
        for size in (1, 100)
    ]
    assert spread[0] / spread[1] == pytest.approx(10, rel=0.35)
    table = generation.measured(found)
    mean = np.mean([
        [exact_kl(p, q, last, 6) for last in starts], [exact_kl(q, p, last, 6) for last in starts]
    ])  # fmt: skip
    assert table[2].nats.kl == pytest.approx(mean, abs=4 * table[2].nats.se)
    assert table[3].nats.kl == pytest.approx(mean, abs=0.03 * mean)


def test_what_is_written_has_the_frequencies_of_the_model(tmp_path: Path) -> None:
    one, p = small_table(tmp_path / "t", 3)
    found = sampled(pair_job(tmp_path, (one, one), number=1, samples=3000, tokens=1))
    from klmap import tokens

    engine = tokens.load_tokenizer(one).engine
    last = engine.encode([PROMPTS[int(found.prompt[0])]])[0][-1]
    likely = [70, 71, 72, 73, 74, 75]
    names = dict(zip(engine.decode([[token] for token in likely]), likely, strict=True))
    counts = dict.fromkeys([END, *likely], 0)
    for text, ended in zip(found.text, found.ended, strict=True):
        counts[END if ended else names[text]] += 1
    expected = np.exp(p[last, list(counts)])
    assert chisquare([*counts.values()], expected / expected.sum() * 6000).pvalue > 1e-3
    np.testing.assert_array_equal(found.loglik[0], found.loglik[1])


@torch.no_grad()
def slowly(folder: Path, ids: Sequence[int], first: int, temperature: float = 1.0) -> float:
    """Nats of the tokens from one on, from the model's own logits in float64."""
    logits = exact_model(folder)(input_ids=torch.tensor([list(ids)])).logits[0]
    logs = (logits / temperature).log_softmax(1)
    return sum(float(logs[place - 1, ids[place]]) for place in range(first, len(ids)))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_one_vocabulary_is_scored_by_the_ids_that_were_sampled(
    tmp_path: Path, temperature: float
) -> None:
    folders = [tiny_model(tmp_path / f"m{seed}", "gpt2", seed) for seed in (0, 1)]
    found = sampled(pair_job(tmp_path, folders, temperature=temperature, more={"t": temperature}))
    assert found.attributes["scored_as"] == TOKENS
    from klmap import tokens

    engine = tokens.load_tokenizer(folders[0]).engine
    checked = 0
    for row in np.flatnonzero(found.canonical & (found.n_bytes > 0)):
        prompt = PROMPTS[found.prompt[row]]
        front = engine.encode([prompt])[0]
        ids = engine.encode([prompt + found.text[row]])[0] + ([END] if found.ended[row] else [])
        assert len(ids) == len(front) + found.n_tokens[row]
        for side, folder in enumerate(folders):
            expected = slowly(folder, ids, len(front), temperature)
            assert found.loglik[side, row] == pytest.approx(expected, abs=1e-3)
        checked += 1
    assert checked or not found.canonical.any()
    assert np.isfinite(found.steps).all()
    assert (found.steps > 0).all()


def test_two_vocabularies_are_scored_as_text_with_an_end_of_their_own(tmp_path: Path) -> None:
    one, _ = small_table(tmp_path / "table", 5)
    other = tiny_model(tmp_path / "llama", "llama", 1, tokenizer="sentencepiece")
    # Half of the tokens of a random model are single bytes, which are no text.
    found = sampled(pair_job(tmp_path, (one, other), samples=20, tokens=3))
    assert found.attributes["scored_as"] == TEXT
    assert found.attributes["left_out"] == 120 - len(found.text) > 0
    assert not any("\ufffd" in text for text in found.text)
    assert np.isnan(found.steps).all()
    from klmap import tokens

    mine = [row for row in range(len(found.text)) if found.source[row] == 0]
    assert any(found.ended[mine])
    for folder, side in ((one, 0), (other, 1)):
        tokenizer = tokens.load_tokenizer(folder)
        for row in mine:
            prompt = PROMPTS[found.prompt[row]]
            whole = tokens.encode(
                tokenizer, [found.text[row]], prompts=[prompt], prefix="default",
                overlength="window", limit=None,
            )  # fmt: skip
            ids, first = whole.sequences[0], whole.first[0]
            if not ids:
                ids = [*tokenizer.before, *tokenizer.engine.encode([prompt])[0]]
                first = len(ids)
            ids = [*ids, *([tokenizer.eos_id] if found.ended[row] else [])]
            assert found.loglik[side, row] == pytest.approx(slowly(folder, ids, first), abs=2e-3)


def test_an_end_is_as_likely_as_all_that_end_a_response_together(tmp_path: Path) -> None:
    folder, logs = small_table(tmp_path / "t", 1)
    model = CausalModel(load_weights(folder, "float32", "cpu"))
    sequences, first = [[5, 70, 71, END], [5, 70, 71], [5, 70]], [1, 1, 2]
    ended = np.array([True, False, False])
    found = scorer_responses.loglik(model, sequences, first, ended, [END, 75], None, 64)
    inner = logs[5, 70] + logs[70, 71]
    end = np.logaddexp(logs[71, END], logs[71, 75])
    np.testing.assert_allclose(found, [inner + end, inner, 0], atol=1e-5)


def test_seeds_reproduce_whatever_the_batches_and_more_samples_keep_the_first(
    tmp_path: Path,
) -> None:
    folders = [tiny_model(tmp_path / f"m{seed}", "gpt2", seed) for seed in (0, 1)]
    first = sampled(pair_job(tmp_path / "a", folders))
    again = sampled(pair_job(tmp_path / "b", folders, batch_tokens=1))
    more = sampled(pair_job(tmp_path / "c", folders, samples=5))
    other = sampled(pair_job(tmp_path / "d", folders, seed=1))
    assert first.text == again.text
    np.testing.assert_allclose(first.loglik, again.loglik, atol=1e-3)
    kept = np.flatnonzero(more.number < 3)
    assert [more.text[row] for row in kept] == first.text
    assert other.text != first.text
    # The two models do not draw with the same numbers.
    same = sampled(pair_job(tmp_path / "e", [folders[0], folders[0]]))
    half = len(same.text) // 2
    assert same.text[:half] != same.text[half:]


def test_a_chat_template_writes_the_prompt_and_nothing_is_added_to_it(tmp_path: Path) -> None:
    template = "{{ bos_token }}User: {{ messages[0].content }}\nAnswer:"
    folders = [
        tiny_model(tmp_path / f"m{seed}", "llama", seed, tokenizer="sentencepiece",
                   settings={"chat_template": template})
        for seed in (0, 1)
    ]  # fmt: skip
    job = pair_job(tmp_path, folders, prompts=[None, None], number=2)
    from klmap.texts import read_texts

    side = job.sides[0]
    read = scorer_samples._reader(side, False, read_texts(job.texts))
    assert read.prompts[0] == "<s>User: Tell me.\nAnswer:"
    assert read.ids[0].count(1) == 1
    assert read.ids[0][0] == 1
    assert len(sampled(job).text) == 12


# The job


def test_prompts_that_leave_no_room_are_left_out_and_counted(tmp_path: Path) -> None:
    folders = [tiny_model(tmp_path / f"m{seed}", "gpt2", seed) for seed in (0, 1)]
    prompts = ["word " * 300, "", "A line of text", "one two"]
    found = sampled(pair_job(tmp_path, folders, prompts=prompts))
    assert found.attributes["prompts_left_out"] == 2
    assert {*found.prompt.tolist()} == {2, 3}


def test_a_pair_without_room_fails_for_good_and_is_skipped_where_asked(tmp_path: Path) -> None:
    folders = [tiny_model(tmp_path / f"m{seed}", "gpt2", seed) for seed in (0, 1)]
    job = pair_job(tmp_path, folders, tokens=500)
    with pytest.raises(PermanentFailure, match="leaves room for 500 tokens"):
        scorer_samples.samples(job)
    assert job.named.failure.is_file()
    found = sampled(dataclasses.replace(job, skip_failures=True))
    assert found.status == "failed"
    assert "leaves room" in found.error


def test_texts_without_prompts_and_models_that_do_not_write_are_refused(tmp_path: Path) -> None:
    folders = [tiny_model(tmp_path / f"m{seed}", "gpt2", seed) for seed in (0, 1)]
    job = pair_job(tmp_path, folders, specs=({}, {"likelihood": "masked"}))
    with pytest.raises(PermanentFailure, match="its likelihood is masked"):
        scorer_samples.samples(job)
    plain = make_job(tmp_path / "plain", folders[0])
    job = dataclasses.replace(job, texts=plain.texts, manifest=plain.manifest)
    with pytest.raises(InputError, match="texts without prompts"):
        scorer_samples.samples(job)


def test_a_finished_pair_is_not_sampled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tiny_model(tmp_path / f"m{seed}", "gpt2", seed) for seed in (0, 1)]
    job = pair_job(tmp_path, folders)
    sampled(job)

    def never(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(scorer_samples, "_compute", never)
    scorer_samples.samples(job)
    job.output.write_bytes(job.output.read_bytes()[:900])
    with pytest.raises(AssertionError, match="computed again"):
        scorer_samples.samples(job)


def test_features_are_means_of_hidden_states_of_the_first_model(tmp_path: Path) -> None:
    folders = [tiny_model(tmp_path / f"m{seed}", "gpt2", seed) for seed in (0, 1)]
    found = sampled(pair_job(tmp_path, folders, mauve=True))
    from klmap import tokens

    model = exact_model(folders[0])
    engine = tokens.load_tokenizer(folders[0]).engine
    for row, text in enumerate(found.text):
        ids = engine.encode([text])[0]
        if not ids:
            assert np.isnan(found.features[row]).all()
            continue
        with torch.no_grad():
            hidden = model.transformer(torch.tensor([ids]))[0][0].mean(0)
        np.testing.assert_allclose(found.features[row], hidden, atol=1e-4)


# The comparison


def made(seed: int = 0, prompts: int = 6, samples: int = 5, **changes: Any) -> Samples:
    """Samples with made-up numbers."""
    rng = np.random.default_rng(seed)
    count = 2 * prompts * samples
    source = np.repeat([0, 1], count // 2).astype(np.int8)
    ratio = rng.normal(3, 2, count)
    loglik = np.stack([np.full(count, -100.0), np.full(count, -100.0)])
    loglik[0] += np.where(source == 0, ratio, 0)
    loglik[1] += np.where(source == 1, ratio, 0)
    values: dict[str, Any] = {
        "text": [f"text {row}" for row in range(count)],
        "prompt": np.tile(np.repeat(np.arange(prompts, dtype=np.int32), samples), 2),
        "source": source,
        "number": np.tile(np.arange(samples, dtype=np.int32), 2 * prompts),
        "loglik": loglik,
        "steps": rng.gamma(2, 1.5, count),
        "n_bytes": rng.integers(50, 90, count).astype(np.int32),
        "n_tokens": np.full(count, 20, np.int32),
        "ended": np.zeros(count, np.bool_),
        "canonical": np.arange(count) % 4 == 0,
        "features": rng.normal(size=(count, 8)).astype(np.float32),
        "attributes": {"scored_as": TOKENS, "left_out": 2},
        **changes,
    }
    return Samples("a", "b", ["c", "d"], "5ha" * 5, "f", {}, **values)


def test_a_file_gives_back_what_was_written_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a~b.h5"
    samples = made(text=["ä\n\t�", "a\0b\0", ""] * 20)
    store_samples.write_samples(path, samples)
    found = read_samples(path)
    for field in dataclasses.fields(Samples):
        ours, theirs = getattr(samples, field.name), getattr(found, field.name)
        if isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype, field.name
        else:
            assert ours == theirs
    store_samples.write_samples(path, made(steps=np.zeros(3)))
    with pytest.raises(InputError, match="steps is"):
        read_samples(path)
    store_samples.write_samples(path, made(source=np.zeros(60, np.int8)))
    with pytest.raises(InputError, match="not both models"):
        read_samples(path)


def test_numbers_and_errors_are_those_of_a_plain_jackknife() -> None:
    samples = made(3)

    def kls(keep: np.ndarray) -> Floats:
        bits, nats = [], []
        for side in (0, 1):
            mine = keep & (samples.source == side)
            ratio = (samples.loglik[side] - samples.loglik[1 - side])[mine]
            values = np.array(
                [ratio.sum(), samples.steps[mine].sum(), len(ratio) * ratio.var(ddof=1) / 2]
            )
            nats.append(values / mine.sum())
            bits.append(values / samples.n_bytes[mine].sum() / math.log(2))
        return np.array([bits[0][0], bits[1][0], *np.mean(bits, 0), *np.mean(nats, 0)])

    whole = kls(np.ones(60, bool))
    without = np.array([kls(samples.prompt != prompt) for prompt in range(6)])
    errors = np.sqrt(5 / 6 * ((without - without.mean(0)) ** 2).sum(0))
    forward, backward, mean, steps, own = generation.measured(samples)
    found = [forward.bits, backward.bits, mean.bits, steps.bits, own.bits]
    found += [mean.nats, steps.nats, own.nats]
    np.testing.assert_allclose([value.kl for value in found], whole, rtol=1e-9)
    np.testing.assert_allclose([value.se for value in found], errors, rtol=1e-9)


def write_pairs(folder: Path, *pairs: Samples) -> list[Path]:
    paths = []
    for samples in pairs:
        paths.append(folder / f"{samples.first}~{samples.second}.h5")
        store_samples.write_samples(paths[-1], samples)
    return paths


def test_tables_tell_estimates_failures_and_pairs_that_are_not_scored(tmp_path: Path) -> None:
    project = Project(tmp_path, noisy(2), [Model("a", id="a"), Model("b", id="b")])
    failed = Samples("a", "c", ["c", "d"], "5ha" * 5, "f", {}, status="failed", error="no room")
    unknown = dataclasses.replace(made(1), second="z")
    paths = write_pairs(tmp_path, failed, unknown, made())
    with project.open() as models:
        found = generation.measure(models, paths)
    generation.write(tmp_path / "out", found)
    rows = {row["second"]: row for row in read_tsv(tmp_path / "out" / "generation.tsv")}
    assert rows["c"]["error"] == "no room"
    assert rows["c"]["kl"] == rows["c"]["samples"] == ""
    assert rows["z"]["estimate"] == ""
    assert float(rows["z"]["kl"]) > 0
    clipped = np.maximum(project.loglik, project.threshold)
    half = np.var(clipped[0] - clipped[1]) / 2
    assert float(rows["b"]["estimate_nats"]) == pytest.approx(half)
    bits = half / project.n_bytes.mean() / math.log(2)
    assert float(rows["b"]["estimate"]) == pytest.approx(bits)
    assert float(rows["b"]["ratio"]) == pytest.approx(bits / float(rows["b"]["kl"]), rel=1e-5)
    assert float(rows["b"]["canonical"]) == 0.25
    assert rows["b"]["mauve"] == ""
    summary = read_tsv(tmp_path / "out" / "summary.tsv")
    assert [row["quantity"] for row in summary] == [*generation.QUANTITIES]
    assert [row["pairs"] for row in summary] == ["1", "2", "2", "0"]


def test_samples_of_other_texts_are_refused(tmp_path: Path) -> None:
    project = Project(tmp_path, noisy(2), [Model("a", id="a"), Model("b", id="b")])
    paths = write_pairs(tmp_path, dataclasses.replace(made(), texts_sha256="other"))
    with project.open() as models, pytest.raises(InputError, match="of other texts"):
        generation.measure(models, paths)


def test_mauve_is_left_out_with_a_word_where_its_package_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mauve", None)
    assert mauve_score.package() is None
    assert "pip install -r envs/extras.txt" in caplog.text


def test_mauve_is_asked_for_texts_that_have_features() -> None:
    asked: list[Any] = []

    class Result:
        mauve = 0.75

    def compute(**given: Any) -> Result:
        asked.append(given)
        return Result()

    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    features[3] = np.nan
    assert mauve_score.score(compute, features, features[10:], 7) == 0.75
    assert len(asked[0]["p_features"]) == 29
    assert len(asked[0]["q_features"]) == 20
    assert asked[0]["seed"] == 7
    assert math.isnan(mauve_score.score(compute, features[:8], features, 7))
    assert math.isnan(mauve_score.score(compute, np.ones_like(features), np.ones((30, 4)), 7))
    assert len(asked) == 1


def test_analysing_imports_neither_torch_nor_mauve() -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import klmap.figure_generation; "
        "assert not {'torch', 'transformers', 'mauve', 'faiss'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def drawn(count: int) -> Generation:
    rng = np.random.default_rng(0)

    def value(kl: float) -> Measured:
        return Measured(Value(kl, kl / 9), Value(100 * kl, 10 * kl))

    pairs = []
    for number in range(count):
        kl = float(10 ** rng.normal(-1, 0.5))
        pairs.append(
            Pair(
                f"a{number}", f"b{number}", RELATIONS[number % 4], [TOKENS, TEXT][number % 2],
                50, 400, sampled=value(kl), own=value(1.1 * kl), estimate=value(2 * kl),
                mauve=math.exp(-kl),
            )
        )  # fmt: skip
    summaries = [summarise(pairs, name, 1) for name in generation.QUANTITIES]
    return Generation(pairs, summaries, 1000)


@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_the_figure_is_drawn_for_any_number_of_pairs(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(true_kl, "DRAWS", 10)
    figure = figure_generation.draw(drawn(count), "chat")
    words = [text.get_text() for text in figure.texts]
    assert any(f"{count} pair" in text for text in words)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ([""] if not count else [*figure_generation.TITLES.values()])
    points = [
        line for axes in figure.axes for line in axes.lines if line.get_marker() not in ("None", "")
    ]
    assert sum(len(line.get_xdata()) for line in points) == 3 * count


def test_scripts_write_samples_tables_and_figure(tmp_path: Path) -> None:
    folders = [tiny_model(tmp_path / f"m{seed}", "gpt2", seed) for seed in (0, 1)]
    job = pair_job(tmp_path, folders, number=3, samples=2, tokens=5)
    texts = [str(part) for side in job.sides for part in (side.card, side.weights)]
    subprocess.run(
        [
            sys.executable, str(ROOT / "scripts" / "samples.py"), "--cards", texts[0], texts[2],
            "--weights", texts[1], texts[3], "--models", "demo--m0", "demo--m1",
            "--specs", *(json.dumps(side.spec) for side in job.sides), "--texts", str(job.texts),
            "--manifest", str(job.manifest), "--prompts", "3", "--samples", "2", "--tokens", "5",
            "--spec", json.dumps(job.spec), "--samples-file", str(job.output), "--device", "cpu",
        ],
        check=True,
    )  # fmt: skip
    rows = [Model("demo--m0", id="x"), Model("demo--m1", id="y")]
    project = Project(tmp_path, noisy(2), rows)
    samples = dataclasses.replace(read_samples(job.output), texts_sha256="5ha" * 5)
    store_samples.write_samples(job.output, samples)
    subprocess.run(
        [
            sys.executable, str(ROOT / "scripts" / "generation.py"),
            "--matrix", str(project.root / "matrix.h5"), "--models", str(tmp_path / "models.tsv"),
            "--offmap", "--offmap-models", "--samples", str(job.output),
            "--folder", str(tmp_path / "generation"),
        ],
        check=True,
    )  # fmt: skip
    names = {path.name for path in (tmp_path / "generation").iterdir()}
    assert names == {"generation.tsv", "summary.tsv", "generation.png", "generation.svg"}
