"""Kinds of likelihood: what each gives, whom it refuses, and that all else is as for causal."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from klmap import likelihoods, recognition, repository, resolve, scorer, scorer_kind, store_score
from klmap.errors import InputError, PermanentFailure
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_as_masked import MaskedModel, windows_around
from klmap.scorer_as_prefix import PrefixModel
from klmap.scorer_as_seq2seq import Seq2SeqModel
from klmap.scorer_kind import Model
from klmap.scorer_load import load_weights
from klmap.scorer_precision import prepare
from klmap.scorer_run import loglik_singly, score_tokens, text_sums
from klmap.tokens import load_tokenizer
from tests.builders import CONTEXT, sample_texts, tiny_model
from tests.kinds import (
    MASKED,
    PAIRS,
    SEQ2SEQ,
    TEXTS,
    conditional,
    exact,
    kind_job,
    kind_model,
    kind_tokenizer,
    near,
    pseudo,
    tokenized,
    with_spec,
)
from tests.oracle import scored
from tests.test_resume import content, in_a_process, killed_after_batch

ROOT = Path(__file__).parents[1]
CLS, SEP, MASK, PAD = 512, 513, 514, 515


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    prepare("cpu", 1)


def load(folder: Path, kind: type[Any], dtype: str = "float64") -> Any:
    """A model of a kind, checked as a job checks it."""
    model = kind(load_weights(folder, dtype, "cpu", loads=kind.loads), load_tokenizer(folder))
    model.verify(list(range(3, 40)))
    return model


def read(folder: Path, kind: type[Model], pairs: Sequence[tuple[str, str]], **policies: Any) -> Any:
    """Responses behind their prompts as a kind reads them."""
    given = {"prefix": "default", "overlength": "window", "limit": None, **policies}
    prompts = {"prompts": [prompt for prompt, _ in pairs]}
    return kind.encode(load_tokenizer(folder), [text for _, text in pairs], **given, **prompts)


# --- pseudo-log-likelihoods


@pytest.mark.parametrize("kind", MASKED)
def test_each_token_is_masked_alone_and_given_all_others(tmp_path: Path, kind: str) -> None:
    folder = kind_model(tmp_path / "model", kind)
    model = load(folder, MaskedModel)
    sequences = [[CLS, *ids, SEP] for ids in tokenized(folder, TEXTS)]
    slow = exact(folder, "AutoModelForMaskedLM")
    expected = [pseudo(slow, ids, range(1, len(ids) - 1), MASK) for ids in sequences]
    near(loglik_singly(model, sequences, None), expected, 1e-9)


@pytest.mark.parametrize("kind", MASKED)
def test_a_masked_model_is_scored_end_to_end(tmp_path: Path, kind: str) -> None:
    folder = kind_model(tmp_path / "model", kind)
    found = scored(kind_job(tmp_path, folder, "masked"))
    ids = tokenized(folder, TEXTS)
    slow = exact(folder, "AutoModelForMaskedLM")
    for number in (0, 4):
        whole = [CLS, *ids[number], SEP]
        expected = pseudo(slow, whole, range(1, len(whole) - 1), MASK)
        near(found.loglik[number], expected, 1e-3)
    assert found.n_scored.tolist() == found.n_tokens.tolist() == [len(each) for each in ids]
    assert found.attributes["likelihood"] == "masked"
    assert found.attributes["mask_id"] == MASK
    assert found.spec["likelihood"] == "masked"
    assert found.attributes["noise_nats"] < 1e-3


@pytest.mark.parametrize("kind", ["bert", "distilbert", "albert", "electra", "modernbert"])
def test_heads_of_masked_models_are_computed_in_full_precision(tmp_path: Path, kind: str) -> None:
    folder = kind_model(tmp_path / "model", kind)
    model = load(folder, MaskedModel, "bfloat16")
    assert model.head_name == "own"
    ids = torch.arange(3, 40)[None]
    rows, targets = torch.arange(30), ids[0, :30]
    with torch.no_grad():
        found = model.read({"input_ids": ids}, rows, targets)
        hidden = model.hidden({"input_ids": ids})[0, :30].double()
        weight = model.head.weight.double()
        bias = 0.0 if model.head.bias is None else model.head.bias.double()
        logits = hidden @ weight.T + bias
    assert found.dtype == torch.float32
    expected = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
    near(found.numpy(), expected.numpy().tolist(), 1e-4)


def test_a_hand_made_masked_model_gives_the_hand_sum(tmp_path: Path) -> None:
    """A BERT without layers: what a masked token is follows from its position alone."""
    folder = kind_model(tmp_path / "model", "bert", num_hidden_layers=0, hidden_size=32)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name, tensor in weights.items():
        if "position_embeddings" in name or "predictions.bias" in name:
            weights[name] = torch.randn(tensor.shape, generator=generator)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    raw = exact(folder, "AutoModelForMaskedLM")
    parts = raw.bert.embeddings
    with torch.no_grad():
        states = parts.LayerNorm(
            parts.word_embeddings.weight[MASK]
            + parts.token_type_embeddings.weight[0]
            + parts.position_embeddings.weight
        )
        table = raw.cls.predictions(states).log_softmax(1)
    model = MaskedModel(
        load_weights(folder, "float64", "cpu", loads="AutoModelForMaskedLM"),
        load_tokenizer(folder),
    )
    sequences = [[CLS, 5, 9, 400, SEP], [CLS, 7, SEP], [], [CLS, *range(200), SEP]]
    expected = [
        sum(float(table[place, ids[place]]) for place in range(1, len(ids) - 1))
        for ids in sequences
    ]
    near(loglik_singly(model, sequences, CONTEXT), expected, 1e-9)


def test_special_tokens_of_the_template_are_seen_and_never_scored(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "bert")
    encoded = MaskedModel.encode(
        load_tokenizer(folder), ["a b", ""], prefix="default", overlength="window", limit=None
    )
    assert encoded.sequences[0][0] == CLS
    assert encoded.sequences[0][-1] == SEP
    assert encoded.sequences[1] == []
    model = load(folder, MaskedModel, "float32")
    plan = model.plan(encoded.sequences, None, encoded.first)
    assert np.diff(plan.offset).tolist() == [len(encoded.sequences[0]) - 2, 0]


def test_without_special_tokens_the_first_token_is_scored_too(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "bert")
    kind_tokenizer(folder, "$A")
    tokenizer = load_tokenizer(folder)
    given: dict[str, Any] = {"prefix": "default", "overlength": "window", "limit": None}
    encoded = MaskedModel.encode(tokenizer, ["a b", "c d"], **given)
    plan = load(folder, MaskedModel, "float32").plan(encoded.sequences, None, encoded.first)
    assert np.diff(plan.offset).tolist() == [len(ids) for ids in encoded.sequences]
    paired = MaskedModel.encode(tokenizer, ["a b", "c d"], prompts=["", "e"], **given)
    assert paired.first == [0, 1]


def test_batch_mates_change_nothing_and_no_row_is_padded(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "bert")
    model = load(folder, MaskedModel)
    sequences = [[CLS, *range(3, 3 + size), SEP] for size in (9, 4, 9, 30, 4, 1)]
    plan = model.plan(sequences, None)
    shapes: list[tuple[int, ...]] = []
    original = model.read
    model.read = lambda given, *rest: (
        shapes.append(tuple(given["input_ids"].shape)),
        original(given, *rest),
    )[1]
    alone = text_sums(score_tokens(model, plan, 1)[0], plan.offset)
    for budget in (30, 200, 10_000):
        near(text_sums(score_tokens(model, plan, budget)[0], plan.offset), alone.tolist(), 1e-10)
    widths = {len(ids) for ids in sequences}
    assert {width for _, width in shapes} == widths
    assert any(rows > 9 for rows, width in shapes if width == 11), "texts of one length share"


def test_what_is_masked_does_not_depend_on_the_token(tmp_path: Path) -> None:
    """A pseudo-log-likelihood sums over the distributions, each of which adds up to one."""
    folder = kind_model(tmp_path / "model", "bert")
    model = load(folder, MaskedModel)
    sequences = [[CLS, 5, token, 9, SEP] for token in range(520)]
    plan = model.plan(sequences, None)
    tokens, _ = score_tokens(model, plan, 5000)
    middle = tokens.reshape(520, 3)[:, 1]
    assert math.isclose(np.exp(middle).sum(), 1.0, abs_tol=1e-9)


def test_parts_of_long_texts_are_disjoint_and_have_context_on_both_sides() -> None:
    for size, begin, room in ((100, 1, 20), (21, 1, 20), (20, 1, 20), (57, 30, 9), (7, 1, 1)):
        start, stop = 1, 1 + size
        found = list(windows_around(start, stop, begin, room))
        places = [place for part, end, _ in found for place in range(part, end)]
        assert places == list(range(begin, stop))
        for part, end, (left, right) in found:
            assert start <= left <= part < end <= right <= stop
            assert right - left == min(room, size)
            if size > room > 4 and left > start and right < stop:
                assert min(part - left, right - end) >= room // 4 - 1


def test_long_texts_are_cut_into_windows_around_each_part(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "bert", max_position_embeddings=32)
    long = sample_texts(4)[3][0]
    job = kind_job(tmp_path, folder, "masked", texts=[*TEXTS[:3], long])
    found = scored(job)
    slow = exact(folder, "AutoModelForMaskedLM")
    (ids,) = tokenized(folder, [long])
    assert len(ids) > 60
    expected = 0.0
    for part, end, (left, right) in windows_around(0, len(ids), 0, 30):
        window = [CLS, *ids[left:right], SEP]
        expected += pseudo(slow, window, range(part - left + 1, end - left + 1), MASK)
    near(found.loglik[3], expected, 1e-3)
    assert found.n_scored[3] == len(ids)
    cut = scored(with_spec(job, overlength="truncate"))
    window = [CLS, *ids[:30], SEP]
    near(cut.loglik[3], pseudo(slow, window, range(1, 31), MASK), 1e-3)
    assert cut.truncated[3]
    assert cut.n_scored[3] == 30
    with pytest.raises(PermanentFailure, match=r"text \d+ has \d+ tokens, the model takes 32"):
        scorer.score(with_spec(job, overlength="fail"))


def test_positions_behind_the_padding_leave_less_room(tmp_path: Path) -> None:
    assert MaskedModel.limit(kind_model(tmp_path / "r", "roberta")) == CONTEXT
    assert MaskedModel.limit(kind_model(tmp_path / "b", "bert")) == CONTEXT
    folder = kind_model(tmp_path / "short", "roberta", max_position_embeddings=14)
    found = scored(kind_job(tmp_path, folder, "masked"))
    assert found.attributes["context"] == 12
    assert max(found.n_scored) > 12
    assert found.n_scored.tolist() == found.n_tokens.tolist()


def test_of_a_pair_only_the_response_is_masked(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "bert")
    found = scored(kind_job(tmp_path, folder, "masked", pairs=PAIRS))
    slow = exact(folder, "AutoModelForMaskedLM")
    whole = tokenized(folder, [prompt + response for prompt, response in PAIRS])
    prompts = tokenized(folder, [prompt for prompt, _ in PAIRS])
    for number, (ids, prompt) in enumerate(zip(whole, prompts, strict=True)):
        assert ids[: len(prompt)] == prompt
        places = range(1 + len(prompt), 1 + len(ids))
        near(found.loglik[number], pseudo(slow, [CLS, *ids, SEP], places, MASK), 1e-3)
        assert found.n_scored[number] == len(ids) - len(prompt)


def test_pmi_of_a_masked_model_is_what_the_prompt_adds(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "bert")
    found = scored(kind_job(tmp_path, folder, "masked", pairs=PAIRS, pmi=True))
    (tmp_path / "alone").mkdir()
    responses = [("", response) for _, response in PAIRS]
    plain = scored(kind_job(tmp_path / "alone", folder, "masked", pairs=responses))
    assert found.unconditional is not None
    near(found.unconditional, plain.loglik.tolist(), 1e-3)
    near(found.loglik[2], [found.unconditional[2]], 1e-4)
    assert abs(found.loglik[0] - found.unconditional[0]) > 0.01


def test_masks_are_found_and_missing_ones_named(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "bert")
    kind_tokenizer(folder, mask=False)
    with pytest.raises(PermanentFailure, match="needs a mask token"):
        scorer.score(kind_job(tmp_path, folder, "masked"))


def test_a_causal_model_under_masked_is_found_out_when_it_is_loaded(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "bert", is_decoder=True)
    with pytest.raises(PermanentFailure, match=r"no later token.*likelihood: causal"):
        scorer.score(kind_job(tmp_path, folder, "masked"))


def test_masked_models_take_no_other_prefix(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "bert")
    with pytest.raises(PermanentFailure, match="remove prefix: bos"):
        scorer.score(kind_job(tmp_path, folder, "masked", prefix="bos"))


# --- encoder-decoders


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_the_encoder_reads_the_prompt_and_the_decoder_gives_the_response(
    tmp_path: Path, kind: str
) -> None:
    folder = kind_model(tmp_path / "model", kind)
    encoded = read(folder, Seq2SeqModel, PAIRS)
    model = load(folder, Seq2SeqModel)
    plan = model.plan(encoded.sequences, None, encoded.first)
    tokens, _ = score_tokens(model, plan, 400)
    slow = exact(folder, "AutoModelForSeq2SeqLM")
    before = load_tokenizer(folder).before
    prompts, responses = (tokenized(folder, side) for side in zip(*PAIRS, strict=True))
    expected = [
        conditional(slow, [*before, *prompt, SEP], [PAD, *before, *response], 1 + len(before))
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    # T5Gemma computes its norms and softmaxes in 32 bits, whatever its weights are.
    near(text_sums(tokens, plan.offset), expected, 1e-5 if kind == "t5gemma" else 1e-9)
    found = scored(kind_job(tmp_path, folder, "seq2seq", pairs=PAIRS))
    near(found.loglik, expected, 1e-3)
    assert found.n_scored.tolist() == [len(ids) for ids in responses]
    assert found.attributes["likelihood"] == "seq2seq"
    assert found.attributes["decoder_start_id"] == PAD


def test_labels_of_the_model_s_own_training_give_the_same_number(tmp_path: Path) -> None:
    """What T5's loss is, without the end of the text, which is not scored."""
    folder = kind_model(tmp_path / "model", "t5")
    prompt, response = PAIRS[0]
    (source,), (labels,) = tokenized(folder, [prompt]), tokenized(folder, [response])
    model = exact(folder, "AutoModelForSeq2SeqLM")
    with torch.no_grad():
        loss = model(
            input_ids=torch.tensor([[*source, SEP]]), labels=torch.tensor([[*labels]])
        ).loss
    own = load(folder, Seq2SeqModel)
    encoded = read(folder, Seq2SeqModel, PAIRS[:1])
    found = loglik_singly(own, encoded.sequences, None, encoded.first)
    near(found, [-float(loss) * len(labels)], 1e-9)


def test_batches_of_encoder_decoders_share_prompts_of_one_length(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "bart")
    pairs = [("abcde"[:size] + " ", text) for size in (2, 2, 4) for text in TEXTS]
    encoded = read(folder, Seq2SeqModel, pairs)
    model = load(folder, Seq2SeqModel)
    plan = model.plan(encoded.sequences, None, encoded.first)
    alone = text_sums(score_tokens(model, plan, 1)[0], plan.offset)
    for budget in (150, 10_000):
        near(text_sums(score_tokens(model, plan, budget)[0], plan.offset), alone.tolist(), 1e-10)


def test_long_sides_are_cut_each_for_itself(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "bart", max_position_embeddings=24)
    long = " ".join(TEXTS)
    pairs = [(long, " yes"), ("Go on:", long), ("a", " b")]
    job = kind_job(tmp_path, folder, "seq2seq", pairs=pairs)
    found = scored(job)
    prompt, response = tokenized(folder, [long, " yes"])
    slow = exact(folder, "AutoModelForSeq2SeqLM")
    source = [CLS, *prompt[-22:], SEP]
    near(found.loglik[0], [conditional(slow, source, [PAD, CLS, *response], 2)], 1e-3)
    assert found.n_scored.tolist() == found.n_tokens.tolist()
    assert not found.truncated.any()
    cut = scored(with_spec(job, overlength="truncate"))
    assert cut.truncated.tolist() == [True, True, False]
    assert cut.n_scored[1] == 22
    with pytest.raises(PermanentFailure, match=r"text 0 has .* tokens on one side"):
        scorer.score(with_spec(job, overlength="fail"))


def test_encoder_decoders_have_pmi_against_an_empty_prompt(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "t5")
    found = scored(kind_job(tmp_path, folder, "seq2seq", pairs=PAIRS, pmi=True))
    assert found.unconditional is not None
    near(found.unconditional[2], [found.loglik[2]], 1e-4)
    assert abs(found.unconditional[0] - found.loglik[0]) > 0.01


@pytest.mark.parametrize("likelihood", ["seq2seq", "prefix"])
def test_texts_without_prompts_are_refused_with_the_fix(tmp_path: Path, likelihood: str) -> None:
    kind = "t5" if likelihood == "seq2seq" else "llama"
    folder = kind_model(tmp_path / "m", kind) if kind == "t5" else tiny_model(tmp_path / "m", kind)
    with pytest.raises(PermanentFailure, match=r"have none; give .* fields: .* or prompt_bytes:"):
        scorer.score(kind_job(tmp_path, folder, likelihood))


def test_a_decoder_without_a_first_token_is_refused(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "mbart", decoder_start_token_id=None, bos_token_id=None)
    (folder / "generation_config.json").unlink(missing_ok=True)
    with pytest.raises(PermanentFailure, match="decoder_start_token_id"):
        scorer.score(kind_job(tmp_path, folder, "seq2seq", pairs=PAIRS))


# --- prefix language models


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen2"])
def test_prompts_are_read_in_both_directions_and_responses_in_one(
    tmp_path: Path, kind: str
) -> None:
    folder = tiny_model(tmp_path / "model", kind)
    model = load(folder, PrefixModel)
    encoded = read(folder, PrefixModel, PAIRS)
    found = loglik_singly(model, encoded.sequences, CONTEXT, encoded.first)
    slow = exact(folder, "AutoModelForCausalLM")
    for number, (ids, first) in enumerate(zip(encoded.sequences, encoded.first, strict=True)):
        total = 0.0
        for place in range(first, len(ids)):
            mask = torch.ones(place, place, dtype=torch.bool).tril()
            mask[:, :first] = True
            with torch.no_grad():
                logits = slow(
                    input_ids=torch.tensor([ids[:place]]),
                    attention_mask=torch.zeros(1, 1, place, place, dtype=torch.float64).masked_fill(
                        ~mask, torch.finfo(torch.float64).min
                    ),
                ).logits[0, -1]
            total += float(logits.log_softmax(0)[ids[place]])
        near(found[number], [total], 1e-9)
    causal = load(folder, CausalModel)
    one_way = loglik_singly(causal, encoded.sequences, CONTEXT, encoded.first)
    near(found[2], [one_way[2]], 1e-9)  # an empty prompt
    assert abs(found[0] - one_way[0]) > 1e-3


def test_prefix_batches_and_windows(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "llama")
    model = load(folder, PrefixModel)
    pairs = [*PAIRS, (" ".join(TEXTS), " ".join(TEXTS))]
    encoded = read(folder, PrefixModel, pairs)
    plan = model.plan(encoded.sequences, 40, encoded.first)
    alone = text_sums(score_tokens(model, plan, 1)[0], plan.offset)
    near(text_sums(score_tokens(model, plan, 500)[0], plan.offset), alone.tolist(), 1e-10)
    without_first = [not prompt for prompt, _ in pairs]  # as in causal models without BOS
    expected = [n - less for n, less in zip(encoded.n_tokens, without_first, strict=True)]
    assert np.diff(plan.offset).tolist() == expected
    found = scored(kind_job(tmp_path, folder, "prefix", pairs=pairs))
    assert found.attributes["likelihood"] == "prefix"


@pytest.mark.parametrize("kind", ["mamba", "gemma2", "mistral"])
def test_classes_that_cannot_read_in_both_directions_are_refused(tmp_path: Path, kind: str) -> None:
    sizes = {"sliding_window": 16} if kind == "mistral" else {}
    folder = tiny_model(tmp_path / "model", kind, **sizes)
    with pytest.raises(PermanentFailure, match=r"likelihood: prefix needs .*likelihood: causal"):
        scorer.score(kind_job(tmp_path, folder, "prefix", pairs=PAIRS))


# --- what all kinds share


JOBS: dict[str, tuple[str, list[tuple[str, str]] | None]] = {
    "masked": ("bert", None),
    "seq2seq": ("t5", PAIRS),
    "prefix": ("llama", PAIRS),
}


def a_job(folder: Path, likelihood: str, **spec: Any) -> scorer.Job:
    kind, pairs = JOBS[likelihood]
    make = tiny_model if likelihood == "prefix" else kind_model
    model = make(folder / "model", kind)
    return kind_job(folder, model, likelihood, pairs=pairs, **spec)


@pytest.mark.parametrize("likelihood", JOBS)
def test_a_killed_job_of_any_kind_ends_with_the_same_bytes(tmp_path: Path, likelihood: str) -> None:
    job = dataclasses.replace(a_job(tmp_path, likelihood), batch_tokens=100, save_every=0.0)
    scorer.score(job)
    whole = content(job.output)
    job.output.unlink()
    assert in_a_process(lambda: killed_after_batch(job, 2)) < 0
    assert job.progress.is_file()
    scorer.score(job)
    assert content(job.output) == whole


@pytest.mark.parametrize("likelihood", JOBS)
def test_layers_are_read_in_causal_models_alone(tmp_path: Path, likelihood: str) -> None:
    with pytest.raises(PermanentFailure, match=r"layers: .*causal.*remove layers:"):
        scorer.score(a_job(tmp_path, likelihood, layers="all"))


def test_packed_products_of_a_masked_model_give_the_same(tmp_path: Path) -> None:
    job = a_job(tmp_path, "masked")
    plain = scored(job).loglik
    job.output.unlink()
    packed = scored(dataclasses.replace(job, products="onednn"))
    assert json.loads(packed.attributes["precision"])["products"] == "onednn"
    near(packed.loglik, plain.tolist(), 1e-3)


def test_a_causal_score_says_nothing_of_kinds(tmp_path: Path) -> None:
    found = scored(kind_job(tmp_path, tiny_model(tmp_path / "model", "gpt2"), "causal"))
    assert "likelihood" not in found.attributes
    assert "likelihood" not in found.spec


# --- recognising


def config_of(*architectures: str, **keys: Any) -> dict[str, Any]:
    return {"architectures": list(architectures), **keys}


BERT = config_of("BertForMaskedLM", model_type="bert")
T5 = config_of("T5ForConditionalGeneration", model_type="t5", is_encoder_decoder=True)
GPT = config_of("GPT2LMHeadModel", model_type="gpt2")


@pytest.mark.parametrize(
    ("config", "likelihood"),
    [
        (GPT, "causal"),
        (GPT, "prefix"),
        (BERT, "masked"),
        (config_of("RobertaForMaskedLM", model_type="roberta"), "masked"),
        (config_of("BertForPreTraining", model_type="bert"), "masked"),
        (config_of("FlaubertWithLMHeadModel", model_type="flaubert"), "masked"),
        (T5, "seq2seq"),
        (config_of("T5WithLMHeadModel", model_type="t5"), "seq2seq"),
        (config_of("BartModel", model_type="bart"), "seq2seq"),
        (config_of("MarianMTModel", model_type="marian"), "seq2seq"),
    ],
)
def test_models_of_the_kind_that_is_asked_for_are_taken(
    config: dict[str, Any], likelihood: str
) -> None:
    assert recognition.recognise("x/y", config, likelihood=likelihood) is None


@pytest.mark.parametrize(
    ("config", "likelihood", "said", "state"),
    [
        (BERT, "causal", "likelihood: masked on the entry", repository.NO_MODEL),
        (T5, "causal", "likelihood: seq2seq on the entry", repository.NO_MODEL),
        (T5, "masked", "likelihood: seq2seq on the entry", recognition.OTHER_KIND),
        (GPT, "masked", "likelihood: causal on the entry", recognition.OTHER_KIND),
        (GPT, "seq2seq", "no encoder-decoder", recognition.OTHER_KIND),
        (BERT, "seq2seq", "likelihood: masked on the entry", recognition.OTHER_KIND),
        (BERT, "prefix", "likelihood: masked on the entry", recognition.OTHER_KIND),
        (
            config_of("BertForSequenceClassification", model_type="bert"),
            "masked",
            "has no masked LM head",
            recognition.OTHER_KIND,
        ),
        (
            config_of("NovelForMaskedLM", model_type="novel"),
            "masked",
            "knows no masked model of type 'novel'",
            recognition.OTHER_KIND,
        ),
    ],
)
def test_models_of_another_kind_are_refused_and_the_fix_is_named(
    config: dict[str, Any], likelihood: str, said: str, state: str
) -> None:
    with pytest.raises(PermanentFailure) as caught:
        recognition.recognise("x/y", config, likelihood=likelihood)
    assert said in str(caught.value)
    assert caught.value.state == state
    if "on the entry" in said:
        assert f"another convention than {likelihood}" in str(caught.value)


def test_a_classifier_has_no_other_kind_to_offer() -> None:
    config = config_of("BertForSequenceClassification", model_type="bert")
    with pytest.raises(PermanentFailure) as caught:
        recognition.recognise("x/y", config)
    assert "likelihood:" not in str(caught.value)


def test_code_of_a_repository_is_that_of_the_kind() -> None:
    classes = {"AutoModelForMaskedLM": "modeling_n.NForMaskedLM"}
    config = config_of("NForMaskedLM", model_type="novel", auto_map=classes)
    with pytest.raises(PermanentFailure, match=r"modeling_n.NForMaskedLM\) is not run"):
        recognition.recognise("x/y", config, likelihood="masked")
    assert recognition.recognise("x/y", config, likelihood="masked", remote_code=True) is None


def test_the_script_takes_the_kind(tmp_path: Path) -> None:
    folder = kind_model(tmp_path / "model", "bert")
    command = [sys.executable, str(ROOT / "scripts" / "resolve.py"), "--id", "x/bert"]
    command += ["--folder", str(folder), "--card", str(tmp_path / "card.json")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "likelihood: masked" in refused.stderr
    subprocess.run([*command, "--likelihood", "masked"], check=True, capture_output=True)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["architecture"] == "BertForMaskedLM"


def test_the_card_of_a_masked_model_is_an_ordinary_one(tmp_path: Path) -> None:
    card = resolve.resolve("x/bert", None, kind_model(tmp_path, "bert"), likelihood="masked")
    assert card.model_type == "bert"
    assert card.context == CONTEXT
    assert not card.error


# --- kinds as files


def test_kinds_are_the_files_and_are_known_without_running_them() -> None:
    files = (ROOT / "scripts" / "klmap").glob("scorer_as_*.py")
    names = {path.stem.removeprefix("scorer_as_") for path in files}
    assert set(likelihoods.NAMES) == names
    assert likelihoods.NAMES[0] == likelihoods.CAUSAL
    code = (
        "import sys; from klmap import likelihoods as l; [l.kind(n) for n in l.NAMES]; "
        "sys.exit('torch' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(ROOT / "scripts")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_what_is_read_from_a_file_is_what_its_class_says() -> None:
    for name in likelihoods.NAMES:
        kind, found = likelihoods.kind(name), scorer_kind.find(name)
        assert issubclass(found, Model)
        assert found.__name__ == kind.class_name
        flags = ("encoder_decoder", "needs_prompts", "reads_layers", "own_specials")
        for key in ("loads", "means", "heads", *flags):
            default = likelihoods.Kind("", "", "", "")
            assert getattr(found, key, getattr(default, key)) == getattr(kind, key), (name, key)


def test_unknown_and_broken_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"likelihood: novel is not one of causal, .*extending"):
        likelihoods.kind("novel")
    (tmp_path / "scorer_as_empty.py").write_text("class Novel:\n    loads = name()\n")
    with pytest.raises(InputError, match="0 classes have plain texts as loads and means"):
        likelihoods.kind("empty", tmp_path)


def example() -> str:
    """The file that docs/extending.md shows."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    return page.partition("```python\n")[2].partition("```")[0]


@pytest.fixture
def diffusion(tmp_path: Path) -> Any:
    """The module of the example."""
    path = tmp_path / "scorer_as_diffusion.py"
    path.write_text(example(), encoding="utf-8")
    kind = likelihoods.kind("diffusion", tmp_path)
    assert (kind.class_name, kind.heads) == ("DiffusionModel", ("ForMaskedLM",))
    spec = importlib.util.spec_from_file_location("scorer_as_diffusion", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_documented_kind_gives_the_bound(
    tmp_path: Path, diffusion: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = kind_model(tmp_path / "model", "bert")
    model = load(folder, diffusion.DiffusionModel)
    slow = exact(folder, "AutoModelForMaskedLM")
    # Of one token there is one choice, and the bound is the pseudo-log-likelihood.
    one = loglik_singly(model, [[CLS, 7, SEP]], None)
    near(one, [pseudo(slow, [CLS, 7, SEP], [1], MASK)], 1e-9)
    # Of two tokens all choices are written down.
    hidden = pseudo(slow, [CLS, 7, 9, SEP], [1, 2], MASK)
    hidden += pseudo(slow, [CLS, 7, MASK, SEP], [1], MASK)
    hidden += pseudo(slow, [CLS, MASK, 9, SEP], [2], MASK)
    monkeypatch.setattr(diffusion, "DRAWS", 20_000)
    two = loglik_singly(model, [[CLS, 7, 9, SEP]], None)
    near(two, [hidden / 2], 0.05)


def test_batches_of_the_documented_kind_change_nothing(tmp_path: Path, diffusion: Any) -> None:
    folder = kind_model(tmp_path / "model", "bert")
    model = load(folder, diffusion.DiffusionModel)
    sequences = [[CLS, *range(3, 3 + size), SEP] for size in (9, 4, 9, 50, 1)]
    plan = model.plan(sequences, 24)
    assert np.diff(plan.offset).tolist() == [9, 4, 9, 50, 1]
    alone = text_sums(score_tokens(model, plan, 1)[0], plan.offset)
    near(text_sums(score_tokens(model, plan, 5000)[0], plan.offset), alone.tolist(), 1e-10)


def test_a_kind_is_added_by_its_file_alone(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    shutil.copytree(ROOT / "scripts", scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "klmap" / "scorer_as_diffusion.py").write_text(example(), encoding="utf-8")
    job = with_spec(
        kind_job(tmp_path, kind_model(tmp_path / "model", "bert"), "masked"),
        likelihood="diffusion",
    )
    places = {
        "card": job.card, "weights": job.weights, "texts": job.texts, "manifest": job.manifest,
        "model": job.model, "spec": json.dumps(job.spec), "score": job.output,
    }  # fmt: skip
    command = [sys.executable, str(scripts / "score.py")]
    command += [part for key, value in places.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = store_score.read_score(job.output)
    assert found.attributes["likelihood"] == "diffusion"
    assert found.n_scored.tolist() == found.n_tokens.tolist()
    assert (found.loglik < 0).all()
    command = [sys.executable, str(scripts / "resolve.py"), "--likelihood", "diffusion"]
    command += ["--id", "x/y", "--folder", str(tmp_path / "model"), "--card", str(job.card)]
    subprocess.run(command, check=True, capture_output=True)
