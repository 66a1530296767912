"""Responses behind prompts: where they begin, what they score, chat templates, and PMI."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from klmap import (
    cards,
    fetch,
    repository,
    resolve,
    scorer,
    scorer_divergence,
    store_score,
    tokens_chat,
    tokens_texts,
)
from klmap.errors import PermanentFailure
from klmap.pairs import Form, Messages
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_load import load_weights
from klmap.scorer_precision import prepare
from klmap.scorer_resume import digest
from klmap.scorer_run import make_plan, score_tokens, text_sums
from klmap.texts import Text
from klmap.tokens import encode, load_tokenizer, windows
from klmap.tokens_engine import TransformersEngine, part_by_common_prefix, part_by_offsets
from tests.builders import CONTEXT, sample_texts, tiny_model, tiny_tokenizer
from tests.oracle import make_job, oracle, scored
from tests.test_divergence import pair_job
from tests.test_resume import batches, content, in_a_process, killed_after_batch
from tests.test_scorer import bigram_model

TEXTS = [text for text, _ in sample_texts(8)]
WIDE = "Größe 日本語 naïve ☃️ 👩‍👩‍👧 déjà\u0301 vu «x» 12\n\n\tend"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    prepare("cpu", 1)


def halves(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Each text cut in the middle, in a word or not."""
    return [(text[: len(text) // 2], text[len(text) // 2 :]) for text in texts]


PAIRS = halves(TEXTS)


def texts_of(pairs: Sequence[tuple[str | Messages, str]], template: str = "none") -> list[Text]:
    """Texts as klmap reads them; a prompt is a string, or the messages of a conversation."""
    form = Form(template, "")  # type: ignore[arg-type]
    found = []
    for number, (prompt, response) in enumerate(pairs):
        asked = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
        size = len(response.encode())
        found.append(Text(number, response, "all", size, form.prompt(asked), asked))
    return found


def paired_job(
    folder: Path,
    model: Path,
    pairs: Sequence[tuple[str | Messages, str]] = PAIRS,
    template: str = "none",
    **spec: Any,
) -> Any:
    """A scoring job on responses, as :func:`tests.oracle.make_job` makes one on texts."""
    job = make_job(folder, model, [response for _, response in pairs], **spec)
    rows = [
        {
            **{"index": text.index, "text": text.text, "domain": "all", "n_bytes": text.n_bytes},
            **{"prompt": text.prompt, "messages": list(text.messages or ())},
        }
        for text in texts_of(pairs, template)
    ]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    job.texts.write_text(data, encoding="utf-8")
    sha256 = hashlib.sha256(data.encode()).hexdigest()
    manifest = {"n": len(rows), "sha256": sha256, "template": template, "separator": ""}
    job.manifest.write_text(json.dumps(manifest))
    return job


def read(folder: Path, texts: Sequence[Text], **changes: Any) -> tokens_texts.Reading:
    settings: dict[str, Any] = {"prefix": "default", "overlength": "window", "limit": None}
    return tokens_texts.read(load_tokenizer(folder), folder, texts, **{**settings, **changes})


def encoded(folder: Path, pairs: Sequence[tuple[str, str]], **changes: Any) -> Any:
    prompts, responses = zip(*pairs, strict=True)
    settings: dict[str, Any] = {"prefix": "default", "overlength": "window", "limit": None}
    return encode(load_tokenizer(folder), responses, prompts=prompts, **{**settings, **changes})


def bytes_of(tokenizer: Tokenizer, kind: str, ids: Sequence[int]) -> list[bytes]:
    """What each token stands for, found without any offset."""
    if kind == "bytes":
        letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
        return [bytes(letters[letter] for letter in tokenizer.id_to_token(i)) for i in ids]
    found = []
    for number in ids:
        token = tokenizer.id_to_token(number)
        is_byte = token.startswith("<0x") and len(token) == 6
        found.append(bytes([int(token[3:5], 16)]) if is_byte else token.replace("▁", " ").encode())
    return found


# Where a response begins.


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_a_response_begins_with_the_first_token_that_ends_behind_the_prompt(
    tmp_path: Path, kind: str
) -> None:
    """Against a count of bytes, with every place of texts in several scripts as the boundary."""
    tiny_tokenizer(tmp_path, kind, template=False, settings={"add_bos_token": False})
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [WIDE, *TEXTS[:2]]
    pairs = [(text[:at], text[at:]) for text in texts for at in range(1, len(text))]
    found = encoded(tmp_path, pairs)
    crossings = 0
    for number, (prompt, response) in enumerate(pairs):
        ids = tokenizer.encode(prompt + response, add_special_tokens=False).ids
        assert found.sequences[number] == ids, "tokenised together"
        # SentencePiece puts a space in front that no character stands for.
        ends = np.cumsum([len(part) for part in bytes_of(tokenizer, kind, ids)])
        ends -= kind == "sentencepiece"
        first = int(np.argmax(ends > len(prompt.encode())))
        begin = 0 if first == 0 else ends[first - 1]
        assert found.n_tokens[number] == len(ids) - first
        assert found.first[number] == max(first, 1)
        crosses = begin < len(prompt.encode()) and first > 0
        assert found.crossing[number] == crosses, (prompt, response)
        crossings += crosses
    assert 0.2 < crossings / len(pairs) < 0.8
    assert found.boundary_rule == "offsets"


def word_tokenizer(folder: Path, merges: list[tuple[str, str]]) -> Path:
    """A BPE over a few letters with these merges."""
    letters = {letter: number for number, letter in enumerate("helowrd ")}
    vocabulary = {**letters}
    for one, other in merges:
        vocabulary[one + other] = len(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    Tokenizer(models.BPE(vocabulary, merges)).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def test_a_merge_across_the_boundary_is_the_response_s_as_a_whole(tmp_path: Path) -> None:
    parts = [("w", "o"), ("wo", "r"), ("l", "d")]
    pairs = [("hello wor", "ld"), ("hello ", "world")]
    apart = encoded(word_tokenizer(tmp_path / "apart", parts), pairs)
    assert [len(sequence) for sequence in apart.sequences] == [8, 8]
    assert (apart.first, apart.n_tokens) == ([7, 6], [1, 2])
    assert apart.crossing == [False, False]
    merged = encoded(word_tokenizer(tmp_path / "merged", [*parts, ("wor", "ld")]), pairs)
    assert (merged.first, merged.n_tokens) == ([6, 6], [1, 1])
    assert merged.crossing == [True, False]
    assert merged.sequences[0] == merged.sequences[1]


def test_special_tokens_at_the_boundary(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    eager = AddedToken("<|go|>", special=True, rstrip=True, normalized=False)
    tokenizer.add_special_tokens([eager])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    end, go = tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|go|>")
    pairs = [("Y Y<|endoftext|>", "no"), ("Y Y", "<|endoftext|>no"), ("Y Y<|go|>", "  no")]
    found = encoded(tmp_path, [*pairs, ("Y Y<|go|>", "no")])
    starts = [s[first] for s, first in zip(found.sequences, found.first, strict=True)]
    assert starts[1:3] == [end, go], "spaces that a token swallows make it the response's"
    assert found.sequences[0][found.first[0] - 1] == end
    assert found.sequences[3][found.first[3] - 1] == go
    assert found.crossing == [False, False, True, False]


def test_what_a_post_processor_says_of_offsets_moves_no_boundary(tmp_path: Path) -> None:
    """Byte-level ones take spaces off, after which a space seems to belong to nobody."""
    plain, trimmed = (tiny_tokenizer(tmp_path / name) for name in ("plain", "trimmed"))
    tokenizer = Tokenizer.from_file(str(trimmed / "tokenizer.json"))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.save(str(trimmed / "tokenizer.json"))
    pairs = [(text[:at], text[at:]) for text in TEXTS[:2] for at in range(1, len(text))]
    expected, found = encoded(plain, pairs), encoded(trimmed, pairs)
    for name in ("sequences", "first", "n_tokens", "crossing"):
        assert getattr(found, name) == getattr(expected, name)
    reused = load_tokenizer(trimmed).engine
    before = reused.encode_with_specials(" a b")
    reused.encode_pairs(["a "], [" b"])
    assert reused.encode_with_specials(" a b") == before


def test_responses_of_white_space_and_without_tokens(tmp_path: Path) -> None:
    found = encoded(tiny_tokenizer(tmp_path), [("Yes", "  "), ("Yes", ""), ("", ""), ("", " ")])
    assert [bool(sequence) for sequence in found.sequences] == [True, False, False, True]
    assert found.n_tokens[1:3] == [0, 0]
    assert found.n_tokens[0] >= 1


def test_tokenizers_of_transformers_give_the_same_boundary(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path, settings={"tokenizer_class": "PreTrainedTokenizerFast"})
    pairs = [(WIDE[:at], WIDE[at:]) for at in range(len(WIDE))]
    prompts, responses = zip(*pairs, strict=True)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    expected = part_by_offsets(tokenizer, prompts, responses)
    assert TransformersEngine(tmp_path).encode_pairs(prompts, responses) == expected


def test_without_offsets_a_response_begins_where_its_tokens_differ(tmp_path: Path) -> None:
    """ByT5 has a token for each byte, so the boundary is known; it has no Rust tokenizer."""
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    pairs = [(WIDE[:at], WIDE[at:]) for at in range(len(WIDE))]
    found = encoded(tmp_path, pairs, prefix="bos")
    assert found.boundary_rule == "common-prefix"
    assert found.n_tokens == [len(response.encode()) for _, response in pairs]
    assert not any(found.crossing)


def test_tokens_that_the_prompt_alone_does_not_have_cross_by_common_prefix(tmp_path: Path) -> None:
    parts = [("w", "o"), ("wo", "r"), ("l", "d"), ("wor", "ld")]
    tokenizer = Tokenizer.from_file(str(word_tokenizer(tmp_path, parts) / "tokenizer.json"))
    found = part_by_common_prefix(
        lambda texts: [tokenizer.encode(text).ids for text in texts],
        ["hello wor", "hello ", "", "hello"],
        ["ld", "world", "world", ""],
    )
    assert found.first == [6, 6, 0, 5]
    assert found.crossing == [True, False, False, False]


# What is scored.


def by_table(table: np.ndarray, sequence: Sequence[int], first: int) -> float:
    pairs = list(itertools.pairwise(sequence))
    return float(sum(table[a, b] for a, b in pairs[first - 1 :]))


def test_hand_made_conditionals_give_the_hand_sum_of_the_response(tmp_path: Path) -> None:
    folder, table = bigram_model(tmp_path / "model")
    reading = read(folder, texts_of(PAIRS), pmi=True)
    exact = CausalModel(load_weights(folder, "float64", "cpu"))
    plan = make_plan(reading.sequences, 64, reading.first)
    found = text_sums(score_tokens(exact, plan, 500)[0], plan.offset)
    by_hand = []
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for prompt, response in PAIRS:
        ids = tokenizer.encode(prompt + response, add_special_tokens=False)
        first = next(n for n, (_, end) in enumerate(ids.offsets) if end > len(prompt))
        by_hand.append(by_table(table, ids.ids, first))
    for _, response in PAIRS:
        by_hand.append(by_table(table, tokenizer.encode(response).ids, 1))
    np.testing.assert_allclose(found, by_hand, atol=1e-9, rtol=0)

    score = scored(paired_job(tmp_path / "job", folder, pmi=True))
    assert score.unconditional is not None
    np.testing.assert_allclose(score.loglik, by_hand[:8], atol=1e-3, rtol=0)
    np.testing.assert_allclose(score.unconditional, by_hand[8:], atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adds nothing around a text by itself, and has a BOS."""
    return tiny_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.mark.parametrize("prefix", ["default", "bos"])
def test_empty_prompts_give_the_plain_set_bit_by_bit(
    tmp_path: Path, llama: Path, prefix: str
) -> None:
    job = make_job(tmp_path / "plain", llama, TEXTS, prefix=prefix)
    plain = scored(dataclasses.replace(job, keep_tokens=True, products="blas"))
    job = paired_job(tmp_path / "paired", llama, [("", text) for text in TEXTS], prefix=prefix)
    found = scored(dataclasses.replace(job, keep_tokens=True, products="blas"))
    for name in ("loglik", "n_tokens", "n_scored", "truncated", "token_logprob", "token_offset"):
        assert getattr(found, name).tobytes() == getattr(plain, name).tobytes(), name
    same = ("noise_nats", "bos_id", "prefix_source", "n_windows", "share_changed")
    assert [found.attributes[key] for key in same] == [plain.attributes[key] for key in same]
    assert found.boundary_loglik is not None
    assert not found.boundary_loglik.any()
    assert (plain.boundary_loglik, plain.unconditional, plain.chat_template) == (None, None, None)
    assert "template" not in plain.attributes


@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True, "add_eos_token": True}])
def test_empty_prompts_are_no_prompts_whatever_stands_around_a_text(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    if settings:
        settings = {"tokenizer_class": "LlamaTokenizer", **settings}
    tiny_tokenizer(tmp_path, "sentencepiece", settings=settings)
    for options in ({}, {"prefix": "bos"}, {"overlength": "truncate", "limit": 40}):
        found = encoded(tmp_path, [("", text) for text in TEXTS], **options)
        policies = {"prefix": "default", "overlength": "window", "limit": None, **options}
        plain = encode(load_tokenizer(tmp_path), TEXTS, **policies)
        assert dataclasses.replace(found, boundary_rule="") == plain


def test_prompt_and_response_together_cost_what_both_cost(tmp_path: Path, llama: Path) -> None:
    """The chain rule: what a text scores is what its beginning scores, and the rest behind it."""
    pairs = [(prompt, response) for prompt, response in PAIRS if " " in response[1:]]
    pairs = [(p + r[: r.index(" ", 1)], r[r.index(" ", 1) :]) for p, r in pairs]
    whole = [prompt + response for prompt, response in pairs]
    plain = scored(
        dataclasses.replace(make_job(tmp_path / "plain", llama, whole), keep_tokens=True)
    )
    found = scored(paired_job(tmp_path / "paired", llama, pairs))
    assert found.attributes["n_crossing"] == 0
    assert plain.token_logprob is not None
    assert plain.token_offset is not None
    for number in range(len(pairs)):
        scores = plain.token_logprob[plain.token_offset[number] : plain.token_offset[number + 1]]
        behind = scores[len(scores) - found.n_scored[number] :]
        assert found.loglik[number] == pytest.approx(behind.sum(dtype=np.float64), abs=1e-3)
        prompt_only = plain.loglik[number] - found.loglik[number]
        assert prompt_only == pytest.approx(
            oracle(llama, read(llama, texts_of([("", pairs[number][0])])).sequences)[0], abs=1e-3
        )


def test_the_token_that_crosses_is_scored_whole_and_stands_in_the_file(
    tmp_path: Path, llama: Path
) -> None:
    pairs = [(text[:at], text[at:]) for text in TEXTS[:3] for at in range(40, 50)]
    job = dataclasses.replace(paired_job(tmp_path, llama, pairs), keep_tokens=True)
    found = scored(job)
    crossing = np.array(encoded(llama, pairs).crossing)
    assert found.boundary_loglik is not None
    assert found.token_logprob is not None
    assert found.token_offset is not None
    assert found.attributes["n_crossing"] == crossing.sum() > 0
    firsts = found.token_logprob[found.token_offset[:-1]]
    np.testing.assert_array_equal(found.boundary_loglik, np.where(crossing, firsts, 0.0))
    assert (found.boundary_loglik[crossing] < 0).all()
    assert found.attributes["boundary_rule"] == "offsets"


def test_windows_give_each_token_of_a_response_the_context_of_the_whole_text() -> None:
    generator = np.random.default_rng(7)
    for _ in range(300):
        length, limit = int(generator.integers(0, 60)), int(generator.integers(2, 20))
        first = int(generator.integers(1, 62))
        sequence = list(range(length))
        plan = make_plan([sequence, [1, 2, 3]], limit, [first, 1])
        found = {
            token: token - piece.window.start
            for piece in plan.pieces
            if piece.text == 0
            for token in range(piece.window.first, piece.window.stop)
        }
        whole = {
            token: token - window.start
            for window in windows(length, limit)
            for token in range(window.first, window.stop)
        }
        assert found == {token: context for token, context in whole.items() if token >= first}
        assert plan.offset.tolist() == [0, len(found), len(found) + 2]
        assert all(piece.scored > 0 for piece in plan.pieces)
        if first < length and length > limit:
            assert found[length - 1] == limit - 1, "the end has full context"


def test_prompts_longer_than_the_context(tmp_path: Path, llama: Path) -> None:
    """Against a slow computation of each window on its own."""
    pairs = [(" ".join(TEXTS) * 2 + TEXTS[0][:at], TEXTS[0][at:]) for at in (5, 60, 200)]
    found = scored(paired_job(tmp_path, llama, pairs))
    reading = read(llama, texts_of(pairs))
    for number, sequence in enumerate(reading.sequences):
        first = reading.first[number]
        assert first > 2 * CONTEXT
        expected = 0.0
        for window in windows(len(sequence), CONTEXT):
            if window.stop > first:
                ids = sequence[window.start : window.stop]
                before = sequence[window.start : max(window.first, first)]
                expected += oracle(llama, [ids])[0] - oracle(llama, [before])[0]
        assert found.loglik[number] == pytest.approx(expected, abs=1e-3)
    assert not found.truncated.any()


def test_responses_that_are_cut_are_flagged_and_those_cut_away_are_refused(
    tmp_path: Path,
) -> None:
    settings = {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True}
    model = tiny_model(tmp_path / "m", "llama", tokenizer="sentencepiece", settings=settings)
    long = " ".join(TEXTS) * 2
    partly = [("Short. ", "Yes."), (long[:300], long[300:])]
    found = scored(paired_job(tmp_path, model, partly, overlength="truncate"))
    assert found.truncated.tolist() == [False, True]
    assert found.n_scored[0] == found.n_tokens[0] + 1, "the EOS that the tokenizer adds"
    assert 0 < found.n_scored[1] < found.n_tokens[1]
    assert found.attributes["n_unscored"] == 0
    away = [*partly, (long, "Yes."), (long, "No."), (long, "")]
    words = rf"of the response of text 2 \(and of 1 more\): its prompt fills the {CONTEXT} tokens"
    with pytest.raises(PermanentFailure, match=words):
        scored(paired_job(tmp_path / "away", model, away, overlength="truncate"))
    assert scored(paired_job(tmp_path / "window", model, away[:4])).n_scored.all()
    with pytest.raises(PermanentFailure, match=r"text 1 has .* tokens with its prompt"):
        scored(paired_job(tmp_path / "fail", model, away, overlength="fail"))


def test_a_prompt_changes_the_error_bar_only_by_what_is_scored(tmp_path: Path, llama: Path) -> None:
    found = scored(paired_job(tmp_path, llama))
    assert 0 < found.attributes["noise_nats"] < 1e-3
    assert found.attributes["noise_reference"] == "float64"


# Pointwise mutual information.


def test_pmi_and_unconditional_add_up_and_the_latter_is_that_of_a_plain_set(
    tmp_path: Path, llama: Path
) -> None:
    for prefix in ("default", "bos"):
        job = paired_job(tmp_path / prefix, llama, prefix=prefix, pmi=True)
        found = scored(dataclasses.replace(job, keep_tokens=True))
        alone = scored(
            make_job(tmp_path / f"{prefix}-alone", llama, [r for _, r in PAIRS], prefix=prefix)
        )
        assert found.unconditional is not None
        np.testing.assert_allclose(found.unconditional, alone.loglik, atol=1e-3)
        pmi = store_score.read_score(job.output, vector="pmi")
        np.testing.assert_allclose(pmi.loglik + found.unconditional, found.loglik, rtol=1e-14)
        without = scored(paired_job(tmp_path / f"{prefix}-without", llama, prefix=prefix))
        np.testing.assert_allclose(found.loglik, without.loglik, atol=1e-3)
        assert found.n_scored.tobytes() == without.n_scored.tobytes()
        assert found.token_logprob is not None
        assert len(found.token_logprob) == found.n_scored.sum()
        assert found.attributes["n_without_first"] == (8 if prefix == "default" else 0)


def test_empty_prompts_have_no_mutual_information(llama: Path) -> None:
    reading = read(llama, texts_of([("", text) for text in TEXTS]), pmi=True)
    exact = CausalModel(load_weights(llama, "float64", "cpu"))
    plan = make_plan(reading.sequences, CONTEXT, reading.first)
    both = text_sums(score_tokens(exact, plan, 400)[0], plan.offset)
    np.testing.assert_allclose(both[:8], both[8:], atol=1e-9, rtol=0)


def test_pmi_without_a_bos_is_told(
    tmp_path: Path, llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scored(paired_job(tmp_path / "a", llama, pmi=True))
    assert "the first token of 8 of 8 responses has no probability without a prompt" in caplog.text
    caplog.clear()
    scored(paired_job(tmp_path / "b", llama, pmi=True, prefix="bos"))
    assert "has no probability" not in caplog.text


def test_layers_are_those_of_the_conditional_scores(tmp_path: Path, llama: Path) -> None:
    with_pmi = scored(paired_job(tmp_path / "a", llama, pmi=True, layers="all"))
    without = scored(paired_job(tmp_path / "b", llama, layers="all"))
    assert with_pmi.layer_loglik.shape == without.layer_loglik.shape == (2, 8)
    np.testing.assert_allclose(with_pmi.layer_loglik, without.layer_loglik, atol=1e-3)


def test_a_killed_job_ends_with_the_same_bytes(
    tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = dataclasses.replace(
        paired_job(tmp_path, llama, pmi=True),
        **{"batch_tokens": 400, "keep_tokens": True, "save_every": 0.0, "products": "blas"},
    )
    total = batches(job, monkeypatch)
    expected = content(job.output)
    assert {"unconditional", "boundary/loglik"} <= set(expected)
    for count in (1, total - 1):
        job.output.unlink()
        assert in_a_process(lambda n=count: killed_after_batch(job, n)) == -signal.SIGKILL
        assert batches(job, monkeypatch) == total - count
        assert content(job.output) == expected


def test_the_side_file_tells_boundaries_apart(llama: Path) -> None:
    (prompt, response), *_ = PAIRS
    readings = [
        read(llama, texts_of([(prompt[:at], prompt[at:] + response)])) for at in (0, 10, 30)
    ]
    assert readings[0].sequences == readings[1].sequences == readings[2].sequences
    assert len({digest(reading.identity) for reading in readings}) == 3


def test_a_score_without_the_responses_alone_is_not_what_a_job_with_pmi_wants(
    tmp_path: Path, llama: Path
) -> None:
    first, second = (paired_job(tmp_path, llama, **spec) for spec in ({}, {"pmi": True}))
    assert first.output != second.output
    scorer.score(first)
    scorer.score(second)
    assert store_score.read_score(first.output).unconditional is None
    assert store_score.read_score(second.output).unconditional is not None


def test_exact_divergences_are_those_of_the_responses(tmp_path: Path, llama: Path) -> None:
    other = tiny_model(tmp_path / "other", "llama", seed=3)
    job = pair_job(tmp_path, (llama, other), [response for _, response in PAIRS], number=8)
    paired = paired_job(tmp_path / "side0", llama)
    scorer_divergence.divergence(
        dataclasses.replace(job, texts=paired.texts, manifest=paired.manifest)
    )
    with h5py.File(job.output) as file:
        n_scored, loglik = file["n_scored"][:], file["loglik"][:]
    expected = scored(paired)
    assert n_scored.tolist() == expected.n_scored.tolist()
    np.testing.assert_allclose(loglik[0], expected.loglik, atol=1e-3)


# Chat templates, written for these tests in the manner of known ones.

CHATML = """{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""

INST = """{{ bos_token }}
{%- set offset = 0 -%}
{%- if messages[0]['role'] == 'system' -%}
  {%- set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' -%}{%- set offset = 1 -%}
{%- else -%}{%- set system = '' -%}{%- endif -%}
{%- for message in messages[offset:] -%}
  {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{ raise_exception('Conversation roles must alternate user/assistant/...') }}
  {%- endif -%}
  {%- if message['role'] == 'user' -%}
    {{ '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}
  {%- else -%}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{%- endif -%}
{%- endfor -%}"""

NO_SYSTEM = """{{ bos_token }}{% for message in messages %}
{%- if message.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif -%}
{{ '<turn>' ~ message.role ~ '\n' ~ message.content | trim ~ '</turn>\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"""

DATED = """{%- if not date_string is defined %}
{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}
{%- else %}{%- set date_string = 'some day' %}{%- endif %}{%- endif %}
{%- macro today() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}
{{- '<|system|>Today: ' + date_string + ' ' + today() + '\n' }}
{%- for message in messages %}{{ '<|' + message.role + '|>' + message.content + '\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

PLAIN_NAMES = """{% for m in messages %}{% if loop.first and m['role'] == 'system' %}
{{- m['content'] + '\n\n' }}{% else %}{{- m['role'] | capitalize + ': ' + m['content'] + '\n\n' }}
{%- endif %}{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"""

CONVERSATIONS: list[tuple[Messages, str]] = [
    (({"role": "user", "content": "What is a map?"},), "A picture of distances."),
    (
        (
            {"role": "user", "content": " How many lamps? "},
            {"role": "assistant", "content": "Three."},
            {"role": "user", "content": "And at night?"},
        ),
        "One more: Größe 日本.",
    ),
]
WITH_SYSTEM: list[tuple[Messages, str]] = [
    (({"role": "system", "content": "Be brief."}, *messages), response)
    for messages, response in CONVERSATIONS
]


def chat_folder(folder: Path, template: str, kind: str = "sentencepiece", **settings: Any) -> Path:
    """A tokenizer with a chat template, and the tokens that ChatML has."""
    tiny_tokenizer(folder, kind, settings={"chat_template": template, **settings})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def of_transformers(folder: Path) -> Any:
    """The folder's tokenizer as transformers has it."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    special = {key: value for key, value in settings.items() if key.endswith("_token")}
    found = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        **{key: value for key, value in special.items() if isinstance(value, str)},
    )
    found.chat_template = tokens_chat.read_template(folder)
    return found


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@pytest.mark.parametrize("template", [CHATML, INST, NO_SYSTEM, PLAIN_NAMES])
def test_prompts_are_those_of_apply_chat_template(tmp_path: Path, template: str, kind: str) -> None:
    chat_folder(tmp_path, template, kind)
    theirs = of_transformers(tmp_path)
    pairs = CONVERSATIONS if template == NO_SYSTEM else [*CONVERSATIONS, *WITH_SYSTEM]
    found = read(tmp_path, texts_of(pairs, "model"))
    assert found.template == template
    for number, (messages, response) in enumerate(pairs):
        asked = list(messages)
        options = {"add_generation_prompt": True, "return_dict": False}
        prompt = theirs.apply_chat_template(asked, tokenize=False, **options)
        whole = theirs(prompt + response, add_special_tokens=False)["input_ids"]
        assert found.sequences[number] == whole
        sequence, first = found.sequences[number], found.encoded.first[number]
        assert found.encoded.n_tokens[number] == len(sequence) - first
        if template == CHATML:
            # A special token and a line break end the prompt, so its tokens are a beginning.
            ids = theirs.apply_chat_template(asked, tokenize=True, **options)
            assert sequence[:first] == ids
            full = [*asked, {"role": "assistant", "content": response}]
            ids = theirs.apply_chat_template(
                full, tokenize=True, continue_final_message=True, return_dict=False
            )
            assert sequence == ids


def test_nothing_is_added_around_what_a_template_writes(tmp_path: Path) -> None:
    adding = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": True}
    for name, template, has_bos in (("inst", INST, True), ("chatml", CHATML, False)):
        folder = chat_folder(tmp_path / name, template, **adding)
        tokenizer = load_tokenizer(folder)
        assert (tokenizer.before, tokenizer.after) == ([1], [2])
        found = read(folder, texts_of(CONVERSATIONS, "model")).encoded
        assert (found.bos_id, found.prefix_source) == (-1, "template")
        for sequence in found.sequences:
            assert sequence.count(1) == has_bos
            assert sequence[-1] != 2
        with_bos = read(folder, texts_of(CONVERSATIONS, "model"), prefix="bos").encoded
        assert [sequence[0] for sequence in with_bos.sequences] == [1, 1]
        assert [sequence.count(1) for sequence in with_bos.sequences] == [1, 1]
        assert with_bos.n_tokens == found.n_tokens
        # Without a template the same policies put both around.
        plain = read(folder, texts_of(CONVERSATIONS)).encoded
        assert all(sequence[0] == 1 and sequence[-1] == 2 for sequence in plain.sequences)


def test_a_template_that_asks_for_the_day_is_always_told_the_same(tmp_path: Path) -> None:
    chat_folder(tmp_path, DATED)
    prompts = tokens_chat.render(DATED, [messages for messages, _ in CONVERSATIONS], {})
    assert prompts[0].startswith("<|system|>Today: 26 Jul 2024 2024-07-26\n<|user|>What is")
    assert prompts[0].endswith("<|assistant|>")


def test_a_template_that_refuses_a_conversation_is_quoted(tmp_path: Path) -> None:
    chat_folder(tmp_path, NO_SYSTEM)
    with pytest.raises(PermanentFailure, match=r"text 2 \(system, user\): System role not supp"):
        read(tmp_path, texts_of([*CONVERSATIONS, *WITH_SYSTEM], "model"))
    twice = ({"role": "user", "content": "a"}, {"role": "user", "content": "b"})
    with pytest.raises(PermanentFailure, match=r"text 0 \(user, user\): Conversation roles must"):
        tokens_chat.render(INST, [twice], {"bos_token": "<s>"})
    with pytest.raises(PermanentFailure, match="chat template cannot be read"):
        tokens_chat.render("{% for %}", [twice], {})


def test_where_a_template_is_looked_for(tmp_path: Path) -> None:
    bare = tiny_tokenizer(tmp_path / "bare")
    with pytest.raises(PermanentFailure, match=r"has no chat template.*template: none.*card\.json"):
        tokens_chat.read_template(bare)
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "this"}]
    listed = tiny_tokenizer(tmp_path / "listed", settings={"chat_template": several})
    assert tokens_chat.read_template(listed) == "this"
    (listed / "chat_template.jinja").write_text("file")
    assert tokens_chat.read_template(listed) == "file"


def test_special_tokens_are_known_by_name(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path, "sentencepiece", settings={"bos_token": None, "sep_token": "|"})
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["eos_token"] = {"content": "</s>", "special": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text('{"bos_token_id": 1, "eos_token_id": 0}')
    found = tokens_chat.special_tokens(tmp_path, load_tokenizer(tmp_path))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "|"}
    assert found == named


def test_the_template_is_kept_with_the_score_however_long(tmp_path: Path) -> None:
    template = "{# " + "long " * 20_000 + "#}" + CHATML
    model = tiny_model(tmp_path / "model", "llama")
    (model / "chat_template.jinja").write_text(template)
    job = paired_job(tmp_path, model, CONVERSATIONS, template="model", pmi=True)
    assert (job.weights / "chat_template.jinja").is_file(), "fetched with the model"
    found = scored(job)
    assert found.chat_template == template
    assert found.attributes["template"] == "model"
    assert found.attributes["template_sha256"] == hashlib.sha256(template.encode()).hexdigest()
    assert found.attributes["prefix_source"] == "template"
    assert found.attributes["n_without_first"] == 2, "responses alone are a plain set's"
    reading = read(model, texts_of(CONVERSATIONS, "model"))
    expected = [
        whole - before
        for whole, before in zip(
            oracle(model, reading.sequences),
            oracle(
                model,
                [s[:n] for s, n in zip(reading.sequences, reading.encoded.first, strict=True)],
            ),
            strict=True,
        )
    ]
    np.testing.assert_allclose(found.loglik, expected, atol=1e-3)


def with_template(job: Any, model: Path, template: str | None) -> None:
    """Give a model another chat template, and make its card and weights anew."""
    file = model / "chat_template.jinja"
    file.unlink(missing_ok=True)
    if template is not None:
        file.write_text(template)
    card = resolve.resolve("demo/tiny", None, model)
    cards.write_card(job.card, card)
    shutil.rmtree(job.weights)
    fetch.fetch(card, job.weights, model)


@pytest.mark.parametrize("form", ["plain", "none", "model"])
def test_another_template_scores_again_what_it_renders_and_nothing_else(
    tmp_path: Path, form: str
) -> None:
    model = tiny_model(tmp_path / "model", "llama")
    (model / "chat_template.jinja").write_text(CHATML)
    if form == "plain":
        job = make_job(tmp_path, model)
    else:
        job = paired_job(tmp_path, model, CONVERSATIONS, template=form)
    first = scored(job)
    assert ("chat_template_sha256" in first.attributes) == (form == "model")
    before = job.output.read_bytes()
    assert scored(job).commit == first.commit
    assert job.output.read_bytes() == before, "with the same template nothing is done"
    with_template(job, model, INST)
    found = scored(job)
    assert found.commit == first.commit
    if form == "model":
        assert found.chat_template == INST
        assert not np.array_equal(found.loglik, first.loglik)
    else:
        assert job.output.read_bytes() == before


def test_a_template_that_is_added_ends_the_failure_for_the_lack_of_one(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "llama")
    job = paired_job(tmp_path, model, CONVERSATIONS, template="model")
    skipping = dataclasses.replace(job, skip_failures=True)
    assert scored(skipping).status == "failed"
    with pytest.raises(PermanentFailure, match="no chat template"):
        scorer.score(job)
    with_template(job, model, CHATML)
    assert scored(skipping).status == "ok"


def test_a_model_without_a_template_fails_for_good_with_the_way_out(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "llama")
    job = paired_job(tmp_path, model, CONVERSATIONS, template="model")
    with pytest.raises(PermanentFailure, match="no chat template"):
        scorer.score(job)
    assert job.failure.is_file()


def test_a_template_is_taken_along_and_is_no_part_of_the_tokenizer() -> None:
    names = ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"]
    assert "chat_template.jinja" in repository.needed_files("x", names)
    assert "chat_template.jinja" not in repository.tokenizer_files(names)
    assert "chat_template.jinja" not in repository.needed_files("x", names[:3])


def test_special_tokens_that_transformers_knows_are_those_of_the_files(tmp_path: Path) -> None:
    chat_folder(tmp_path, INST)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    found = tokens_chat.special_tokens(tmp_path, load_tokenizer(tmp_path))
    assert found == {key: str(value) for key, value in theirs.special_tokens_map.items()}
