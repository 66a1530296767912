"""Log-likelihoods against slow, plain oracles, and how a scoring job ends."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from klmap import cards, scorer, scorer_head, scorer_job, scorer_kind, store_score
from klmap.config import fingerprint
from klmap.errors import InputError, KlmapError, PermanentFailure
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_load import load_weights
from klmap.scorer_precision import Loading, noise, prepare
from klmap.scorer_run import (
    loglik_singly,
    make_plan,
    next_batch,
    probe_texts,
    score_tokens,
    text_sums,
)
from tests.builders import CONTEXT, sample_texts, tiny_model
from tests.oracle import ids_of, make_job, oracle, scored

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    prepare("cpu", 1)


def test_bos_policy_scores_every_token(tmp_path: Path) -> None:
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}
    model = tiny_model(tmp_path / "model", "llama", tokenizer="sentencepiece", settings=settings)
    texts = [text for text, _ in sample_texts(3)]
    plain = scored(make_job(tmp_path / "a", model, texts))
    bos = scored(make_job(tmp_path / "b", model, texts, prefix="bos"))
    assert (plain.n_scored == plain.n_tokens - 1).all()
    assert (bos.n_scored == bos.n_tokens).all()
    np.testing.assert_allclose(bos.loglik, oracle(model, ids_of(model, texts, [1])), atol=1e-3)
    assert (plain.attributes["bos_id"], bos.attributes["bos_id"]) == (-1, 1)


def bigram_model(folder: Path) -> tuple[Path, np.ndarray]:
    """A Llama without layers whose next-token distribution is a table; and that table."""
    size = 1024  # a square of a power of two: its root is exact in float32, where norms compute
    overrides: dict[str, Any] = {"hidden_size": size, "num_hidden_layers": 0, "rms_norm_eps": 1e-30}
    tiny_model(folder, "llama", vocabulary=size, **overrides)
    table = np.random.default_rng(5).dirichlet(np.full(size, 0.5), size)
    table = np.log(table + 1e-9)
    table -= np.log(np.exp(table).sum(1, keepdims=True))
    # An embedding of unit vectors, normalised to length sqrt(size), picks one column.
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if "embed_tokens" in name:
            weights[name] = torch.eye(size)
        elif "lm_head" in name:
            weights[name] = torch.tensor(table.T.copy(), dtype=torch.float64) / math.sqrt(size)
        else:
            weights[name] = torch.ones_like(tensor)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, table


def test_hand_made_bigram_model_equals_the_hand_sum(tmp_path: Path) -> None:
    folder, table = bigram_model(tmp_path / "model")
    sequences = [[3, 500, 7, 7, 0], [1023, 1], [9], []]
    by_hand = [sum(table[a, b] for a, b in itertools.pairwise(s)) for s in sequences]
    exact = CausalModel(load_weights(folder, "float64", "cpu"))
    np.testing.assert_allclose(loglik_singly(exact, sequences, 64), by_hand, atol=1e-9, rtol=0)
    texts = [text for text, _ in sample_texts(4)]
    result = scored(make_job(tmp_path, folder, texts))
    by_hand = [sum(table[a, b] for a, b in itertools.pairwise(s)) for s in ids_of(folder, texts)]
    np.testing.assert_allclose(result.loglik, by_hand, atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[CausalModel, list[list[int]]]:
    """A model with learned positions, and 64 sequences of many lengths."""
    folder = tiny_model(tmp_path_factory.mktemp("model"), "gpt2")
    generator = np.random.default_rng(1)
    sequences = [generator.integers(0, 512, n).tolist() for n in range(2, 66)]
    return CausalModel(load_weights(folder, "float32", "cpu")), sequences


def logliks(model: CausalModel, sequences: Sequence[Sequence[int]], budget: int) -> np.ndarray:
    plan = make_plan(sequences, CONTEXT)
    tokens, _ = score_tokens(model, plan, budget)
    return text_sums(tokens, plan.offset)


def test_batch_mates_and_order_do_not_matter(
    loaded: tuple[CausalModel, list[list[int]]],
) -> None:
    model, sequences = loaded
    alone = logliks(model, sequences, 1)
    for budget in (70, 200, 100_000):
        np.testing.assert_allclose(logliks(model, sequences, budget), alone, atol=1e-3)
    order = np.random.default_rng(2).permutation(len(sequences))
    shuffled = logliks(model, [sequences[i] for i in order], 100_000)
    np.testing.assert_allclose(shuffled, alone[order], atol=1e-3)


def test_equal_batches_are_bit_equal_and_duplicates_score_equal(
    loaded: tuple[CausalModel, list[list[int]]],
) -> None:
    model, sequences = loaded
    first, second = logliks(model, sequences, 300), logliks(model, sequences, 300)
    assert first.tobytes() == second.tobytes()
    twice = logliks(model, [sequences[9]] * 6, 100_000)
    assert len(set(twice.tolist())) == 1


def test_padding_is_irrelevant(loaded: tuple[CausalModel, list[list[int]]]) -> None:
    model, sequences = loaded
    sequence = sequences[20]
    rows = torch.arange(len(sequence) - 1)
    targets = torch.tensor(sequence[1:])
    results = []
    for pad in (0, 1, 511):
        ids = torch.tensor([sequence + [pad] * 40])
        with torch.inference_mode():
            results.append(model.logprobs(ids, rows, targets))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("rows", [1, 7, 128, 10_000])
@pytest.mark.parametrize("columns", [61, 511, 10_000])
def test_logits_at_a_time_do_not_matter(
    loaded: tuple[CausalModel, list[list[int]]],
    rows: int,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, sequences = loaded
    before = logliks(model, sequences, 500)
    monkeypatch.setattr(scorer_head, "CPU_ROWS", rows)
    monkeypatch.setattr(scorer_head, "CPU_COLUMNS", columns)
    np.testing.assert_allclose(logliks(model, sequences, 500), before, atol=1e-3)


def test_model_settings_for_generation_change_nothing(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "use_cache": True,
        "pad_token_id": 0,
        "resid_pdrop": 0.9,
        "attn_pdrop": 0.9,
    }
    plain = scored(make_job(tmp_path / "a", tiny_model(tmp_path / "m1", "gpt2")))
    other = scored(make_job(tmp_path / "b", tiny_model(tmp_path / "m2", "gpt2", **options)))
    assert plain.loglik.tobytes() == other.loglik.tobytes()
    assert plain.commit != other.commit


@pytest.mark.parametrize("extra", [-1, 0, 1, 40])
def test_windows_around_the_limit(loaded: tuple[CausalModel, list[list[int]]], extra: int) -> None:
    model, _ = loaded
    sequence = np.random.default_rng(3).integers(0, 512, CONTEXT + extra).tolist()
    plan = make_plan([sequence, [5, 6]], CONTEXT)
    tokens, _ = score_tokens(model, plan, 10_000)
    assert plan.offset.tolist() == [0, len(sequence) - 1, len(sequence)]
    by_hand = []
    end = min(CONTEXT, len(sequence))
    for start, first, stop in [(0, 1, end), (len(sequence) - CONTEXT, CONTEXT, len(sequence))]:
        if first < stop:
            ids = torch.tensor([sequence[max(start, 0) : stop]])
            with torch.no_grad():
                logits = torch.log_softmax(model.model(ids).logits[0].double(), -1)
            chosen = logits[:-1].gather(1, ids[0, 1:, None])[:, 0]
            by_hand += chosen[-(stop - first) :].tolist()
    np.testing.assert_allclose(tokens[:-1], by_hand, atol=1e-4)


def test_overlong_texts_by_policy(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2", n_positions=64)
    texts = ["A short one.", "A long one, " + "again and " * 80]
    window = scored(make_job(tmp_path / "a", model, texts))
    cut = scored(make_job(tmp_path / "b", model, texts, overlength="truncate"))
    assert window.truncated.tolist() == [False, False]
    assert cut.truncated.tolist() == [False, True]
    assert window.n_scored[1] == window.n_tokens[1] - 1
    assert (cut.n_tokens[1], cut.n_scored[1]) == (window.n_tokens[1], 63)
    assert window.attributes["n_windows"] > 2 == cut.attributes["n_windows"]
    expected = oracle(model, [ids[:64] for ids in ids_of(model, texts)])
    np.testing.assert_allclose(cut.loglik, expected, atol=1e-3)
    with pytest.raises(PermanentFailure, match=r"text 1 has .* tokens, the model takes 64"):
        scored(make_job(tmp_path / "c", model, texts, overlength="fail"))


def test_texts_with_one_token_or_none(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2", settings={"add_prefix_space": False})
    result = scored(make_job(tmp_path, model, ["a", "A longer text.", "b"]))
    assert result.n_scored[0] == result.n_scored[2] == 0
    assert result.loglik[0] == result.loglik[2] == 0.0
    assert result.loglik[1] < 0
    assert result.attributes["n_unscored"] == 2
    nothing = scored(make_job(tmp_path / "nothing", model, ["a", "b"]))
    assert nothing.loglik.tolist() == [0.0, 0.0]


def test_kept_tokens_add_up_exactly(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2", n_positions=64)
    texts = [text for text, _ in sample_texts(20)]
    result = scored(dataclasses.replace(make_job(tmp_path, model, texts), keep_tokens=True))
    assert result.token_logprob is not None
    assert result.token_offset is not None
    for number in range(len(texts)):
        span = slice(result.token_offset[number], result.token_offset[number + 1])
        assert result.token_logprob[span].sum(dtype=np.float64) == result.loglik[number]
    assert np.diff(result.token_offset).tolist() == result.n_scored.tolist()


def test_the_same_job_twice_is_byte_identical(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "llama")
    first = scored(make_job(tmp_path / "a", model))
    second = scored(make_job(tmp_path / "b", model))
    assert first.loglik.tobytes() == second.loglik.tobytes()


def test_bfloat16_on_request_with_everything_behind_the_body_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    original = torch.logsumexp

    def watched(logits: torch.Tensor, dim: int) -> torch.Tensor:
        seen.add(logits.dtype)
        return original(logits, dim)

    monkeypatch.setattr(torch, "logsumexp", watched)
    model = tiny_model(tmp_path / "model", "llama", dtype=torch.bfloat16)
    exact = scored(make_job(tmp_path / "a", model, dtype="float32"))
    rounded = scored(make_job(tmp_path / "b", model, dtype="bfloat16"))
    assert seen == {torch.float32, torch.float64}
    assert rounded.attributes["dtype"] == "bfloat16"
    difference = np.sqrt(np.mean((exact.loglik - rounded.loglik) ** 2))
    assert 1e-3 < difference < 20
    assert rounded.attributes["noise_nats"] == pytest.approx(difference, rel=0.5)
    assert exact.attributes["noise_nats"] < 1e-3


def test_own_head_that_differs_gives_way_to_the_model_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tmp_path / "model", "cohere")
    expected = scored(make_job(tmp_path / "a", model))
    right = scorer_head.own_head

    def wrong(model: Any) -> scorer_head.Head:
        head = right(model)
        assert head is not None
        return dataclasses.replace(head, scale=1.0)

    monkeypatch.setattr(scorer_kind, "own_head", wrong)
    found = scored(make_job(tmp_path / "b", model))
    assert (expected.attributes["head"], found.attributes["head"]) == ("own", "model")
    np.testing.assert_allclose(found.loglik, expected.loglik, atol=1e-3)


def test_out_of_memory_halves_the_batch(
    loaded: tuple[CausalModel, list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sequences = loaded
    expected = logliks(model, sequences, 1)
    original = CausalModel.logprobs

    def limited(self: CausalModel, ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if ids.numel() > 200:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, ids, *rest)

    monkeypatch.setattr(CausalModel, "logprobs", limited)
    plan = make_plan(sequences, CONTEXT)
    tokens, budget = score_tokens(model, plan, 5000)
    np.testing.assert_allclose(text_sums(tokens, plan.offset), expected, atol=1e-3)
    assert budget <= 200

    def never(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(CausalModel, "logprobs", never)
    with pytest.raises(torch.OutOfMemoryError):
        score_tokens(model, plan, 5000)


def test_batch_plan() -> None:
    plan = make_plan([[0] * n for n in (9, 5, 1, 0, 8, 8)], None)
    pieces = plan.ordered
    assert [piece.text for piece in pieces] == [0, 4, 5, 1]
    assert [piece.text for piece in next_batch(pieces, 0, 16)] == [0, 4]
    assert [piece.text for piece in next_batch(pieces, 0, 1)] == [0]
    assert [piece.text for piece in next_batch(pieces, 1, 1000)] == [4, 5, 1]
    assert plan.offset.tolist() == [0, 8, 12, 12, 12, 19, 26]


def test_probe_is_fixed_and_spread() -> None:
    assert probe_texts(5) == [0, 1, 2, 3, 4]
    found = probe_texts(10_000)
    assert len(found) == 64
    assert (found[0], found[-1]) == (0, 9999)


def break_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_nan(weights: dict[str, torch.Tensor]) -> None:
    weights["transformer.wte.weight"][5:300] = float("nan")


def test_non_finite_weights_are_a_permanent_failure(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    break_weights(model, with_nan)
    job = make_job(tmp_path, model)
    with pytest.raises(PermanentFailure, match=r"not finite, the first in text 0") as first:
        scorer.score(job)
    assert not job.output.exists()
    reason = json.loads(job.failure.read_text())
    assert reason["error"] == str(first.value)
    assert (reason["model"], reason["commit"]) == ("demo--tiny", cards.read_card(job.card).commit)


def test_later_attempts_end_at_once_with_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    break_weights(model, with_nan)
    job = make_job(tmp_path, model)
    with pytest.raises(PermanentFailure) as first:
        scorer.score(job)
    monkeypatch.setattr(scorer, "_score", lambda *_: pytest.fail("computed again"))
    with pytest.raises(PermanentFailure) as second:
        scorer.score(job)
    assert str(first.value) == str(second.value)
    monkeypatch.undo()
    repaired = make_job(tmp_path, tiny_model(tmp_path / "model", "gpt2"))
    assert scored(repaired).status == "ok", "another commit is another model"
    assert not repaired.failure.exists()


def test_skipped_failure_is_a_score_that_says_why(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    break_weights(model, with_nan)
    job = dataclasses.replace(make_job(tmp_path, model), skip_failures=True)
    result = scored(job)
    assert result.status == "failed"
    assert "not finite" in result.error
    assert not job.failure.exists()


def test_missing_weights_are_never_made_up(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "llama", tie_word_embeddings=False)
    break_weights(model, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(PermanentFailure, match=r"1 weights .* random \(model.layers.1.mlp.up"):
        scorer.score(make_job(tmp_path, model))


def test_missing_head_is_never_made_up(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "llama", tie_word_embeddings=False)
    break_weights(model, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(PermanentFailure, match=r"random \(lm_head.weight\)"):
        scorer.score(make_job(tmp_path, model))


def test_pickled_weights_score_the_same(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "llama", tie_word_embeddings=False)
    expected = scored(make_job(tmp_path / "a", model))
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    found = scored(make_job(tmp_path / "b", model))
    assert found.loglik.tobytes() == expected.loglik.tobytes()


class Dangerous:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_code_in_pickled_weights_is_never_run(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "llama", tie_word_embeddings=False)
    weights: dict[str, Any] = dict(load_file(model / "model.safetensors"))
    torch.save({**weights, "extra": Dangerous(tmp_path / "ran")}, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(PermanentFailure, match="cannot be loaded"):
        scorer.score(make_job(tmp_path, model))
    assert not (tmp_path / "ran").exists()


def test_newer_libraries_may_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    job = make_job(tmp_path, model)
    monkeypatch.setattr(scorer_job, "version", lambda _: "0.1")
    monkeypatch.setattr(scorer, "_score", lambda *_: raise_permanent("too new"))
    with pytest.raises(PermanentFailure, match="too new"):
        scorer.score(job)
    assert job.failure.is_file()
    monkeypatch.undo()
    assert scored(job).status == "ok"
    assert not job.failure.exists()


def raise_permanent(reason: str) -> None:
    raise PermanentFailure(reason)


def test_vocabulary_smaller_than_the_ids(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2", vocab_size=300)
    with pytest.raises(PermanentFailure, match="embedding has 300 rows"):
        scorer.score(make_job(tmp_path, model))


def test_vocabulary_padded_beyond_the_ids(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2", vocab_size=640)
    texts = [text for text, _ in sample_texts(3)]
    result = scored(make_job(tmp_path, model, texts))
    np.testing.assert_allclose(result.loglik, oracle(model, ids_of(model, texts)), atol=1e-3)


def test_model_that_sees_later_tokens_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "bert", is_decoder=False)
    with pytest.raises(PermanentFailure, match="looks at later tokens"):
        scorer.score(make_job(tmp_path, model))


def test_unknown_model_type_is_refused_without_running_its_code(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    marker = tmp_path / "ran"
    (model / "code.py").write_text(f"open({str(marker)!r}, 'w')")
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.C"}}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(PermanentFailure, match="knows no causal language model of type 'own'"):
        scorer.score(make_job(tmp_path, model))
    assert not marker.exists()


def test_what_this_machine_cannot_do(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    job = make_job(tmp_path, model, dtype="float16")
    with pytest.raises(PermanentFailure, match="float16 is emulated on a CPU"):
        scorer.score(job)
    assert not job.failure.exists(), "another machine or version may do it"


def test_card_with_an_error_fails_with_its_words(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    (model / "model.safetensors").unlink()
    job = make_job(tmp_path, model)
    assert (job.weights / "FAILED").is_file()
    with pytest.raises(PermanentFailure, match="no weights"):
        scorer.score(job)


def test_untrained_models_are_marked(tmp_path: Path) -> None:
    flat = scored(make_job(tmp_path / "a", tiny_model(tmp_path / "m", "gpt2", spread=0.01)))
    assert bool(flat.attributes["untrained"]) is True
    folder, table = bigram_model(tmp_path / "bigram")
    likely = CausalModel(load_weights(folder, "float32", "cpu"))
    chain = [int(np.argmax(table[i])) for i in range(2)]
    assert loglik_singly(likely, [[0, chain[0]]], 64)[0] > -math.log(1024) + 0.5


def test_name_that_promises_other_settings_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    job = make_job(tmp_path, model)
    changed = dataclasses.replace(job, spec={**job.spec, "dtype": "bfloat16"})
    with pytest.raises(InputError, match="changed while this job was queued") as error:
        scorer.score(changed)
    assert fingerprint(job.spec) in str(error.value)
    assert fingerprint(changed.spec) in str(error.value)


def test_finished_score_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    job = make_job(tmp_path, model)
    scorer.score(job)
    calls = []
    original = scorer._score

    def counted(*arguments: Any) -> store_score.Score:
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(scorer, "_score", counted)
    scorer.score(job)
    assert calls == []
    scorer.score(dataclasses.replace(job, keep_tokens=True))
    assert len(calls) == 1, "tokens were asked for and are not there"
    job.output.write_bytes(job.output.read_bytes()[:1000])
    scorer.score(job)
    assert len(calls) == 2, "half a file is no score"
    other = make_job(tmp_path, tiny_model(tmp_path / "model", "gpt2", seed=1))
    scorer.score(other)
    assert len(calls) == 3, "another commit"


def test_no_gpu_is_said_plainly() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(KlmapError, match="no GPU is visible"):
        prepare("cuda", 1)


def test_noise_falls_back_to_the_same_dtype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model(tmp_path, "gpt2")
    sequences = [[1, 2, 3], [4, 5]]
    model = Loading(folder, "cpu", sequences, 64, products="blas").load("float32")
    values = loglik_singly(model, sequences, 64)
    found = noise(model, sequences, values, 64, parameters=10**10)
    assert found == {"noise_nats": 0.0, "noise_reference": "float32"}
    original = CausalModel.logprobs

    def only32(self: CausalModel, *rest: torch.Tensor) -> torch.Tensor:
        if self.dtype == "float64":
            raise NotImplementedError("no float64 kernel")
        return original(self, *rest)

    monkeypatch.setattr(CausalModel, "logprobs", only32)
    found = noise(model, sequences, values, 64, parameters=1)
    assert found == {"noise_nats": 0.0, "noise_reference": "float32"}


def test_command_line(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    job = make_job(tmp_path, model)

    def run(*extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts/score.py")]
        for name in ("card", "weights", "texts", "manifest", "model"):
            command += [f"--{name}", str(getattr(job, name))]
        command += ["--spec", json.dumps(job.spec), "--score", str(job.output), *extra]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("--keep-tokens", "true", "--batch-tokens", "500", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "bits per byte" in done.stderr
    assert store_score.read_score(job.output).attributes["batch_tokens"] == 500
    assert not list(tmp_path.glob(".*.tmp"))
    job.output.unlink()
    (job.weights / "model.safetensors").unlink()
    (job.weights / "FAILED").write_text("gone for a reason")
    failed = run()
    assert failed.returncode == 3
    assert "gone for a reason" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_recipe_of_the_documentation_gives_the_stored_number(tmp_path: Path) -> None:
    document = (ROOT / "docs" / "scoring.md").read_text(encoding="utf-8")
    recipe = document.split("```python\n")[1].split("```")[0]
    settings = {"tokenizer_class": "LlamaTokenizer"}
    model = tiny_model(tmp_path / "model", "llama", tokenizer="sentencepiece", settings=settings)
    job = make_job(tmp_path, model)
    scorer.score(job)
    arguments = [str(job.weights), str(job.texts), str(job.output), "5"]
    done = subprocess.run(
        [sys.executable, "-c", recipe, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    by_hand, stored = (float(part.split()[-1]) for part in done.stdout.split(" nats")[0].split(","))
    assert by_hand == pytest.approx(stored, abs=1e-3)
    assert stored == pytest.approx(store_score.read_score(job.output).loglik[5], abs=1e-3)
