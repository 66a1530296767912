"""Responses of two loaded models: they are written, decoded, scored by both, and described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klmap import scorer_compare, scorer_generate, scorer_responses, scorer_run, tokens
from klmap.arrays import Floats
from klmap.log import Progress
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_responses import REPLACEMENT, Reader
from klmap.store_samples import Samples


@dataclass(frozen=True)
class How:
    """How responses are made and scored.

    Attributes:
        seed: of the sampling.
        samples: responses of each model to each prompt.
        tokens: most tokens of a response.
        temperature: by which logits are divided.
        limit: longest input of both models in tokens; None without one.
        budget: tokens per batch.
    """

    seed: int
    samples: int
    tokens: int
    temperature: float
    limit: int | None
    budget: int


@dataclass(frozen=True)
class Written:
    """One response.

    Attributes:
        source: which model wrote it, 0 or 1.
        place: number of the text whose prompt it answers.
        number: which of the samples of this prompt it is.
        ids: the tokens that were sampled, without an end.
        end: the token that ends it; none where the longest length does.
        text: what they say.
        unreadable: whether its text cannot be given to another model as it was meant.
    """

    source: int
    place: int
    number: int
    ids: list[int]
    end: list[int]
    text: str
    unreadable: bool


def write(
    how: How,
    source: int,
    model: CausalModel,
    columns: int,
    reader: Reader,
    chosen: Sequence[int],
) -> tuple[list[Written], bool]:
    """Let one model answer some prompts.

    Args:
        how: many, and how long.
        source: which of the two models it is, 0 or 1.
        model: loaded and verified.
        columns: ids below this number can be sampled.
        reader: how it reads.
        chosen: numbers of the texts whose prompts are answered.

    Returns:
        The responses by prompt, and whether they were made with a cache.

    Raises:
        PermanentFailure: the model's own code fails.
    """
    longest = max((reader.ids[place] for place in chosen), key=len)
    writer = scorer_generate.Writer(model, columns, reader.stops, how.temperature, longest)
    progress = Progress(len(chosen) * how.samples * how.tokens, "sampled tokens")
    uniform = [
        np.stack(
            [
                scorer_generate.uniforms(how.seed, source, place, number, how.tokens)
                for number in range(how.samples)
            ]
        )
        for place in chosen
    ]
    prompts = [reader.ids[place] for place in chosen]
    found = scorer_generate.write_all(writer, prompts, uniform, how.budget, progress)
    progress.close()
    written = []
    for place, responses in zip(chosen, found, strict=True):
        for number, ids in enumerate(responses):
            end = [token for token in ids[-1:] if token in reader.stops]
            plain = ids[: len(ids) - len(end)]
            text, unreadable = decoded(reader, place, plain, bool(end))
            written.append(Written(source, place, number, plain, end, text, unreadable))
    return written, writer.cached


def decoded(reader: Reader, place: int, ids: list[int], ended: bool) -> tuple[str, bool]:
    """The text of a response, and whether another model cannot read what was meant.

    A character that the longest length cuts through is left out, as at the ends of texts.

    Args:
        reader: how the model reads that wrote it.
        place: number of the text whose prompt it answers.
        ids: its tokens, without an end.
        ended: whether the model ended it.

    Returns:
        The text; and whether it holds bytes that are no character, or changes the prompt.
    """
    prompt = reader.ids[place]
    bare, whole = reader.tokenizer.engine.decode([prompt, [*prompt, *ids]])
    joined = whole.startswith(bare)
    text = whole[len(bare) :] if joined else reader.tokenizer.engine.decode([ids])[0]
    if not ended:
        text = text.rstrip(REPLACEMENT)
    return text, not joined or REPLACEMENT in text


def as_tokens(
    how: How,
    models: tuple[CausalModel, CausalModel],
    readers: Sequence[Reader],
    kept: Sequence[Written],
) -> tuple[Floats, Floats]:
    """Score responses of two models with one vocabulary, as the ids that were sampled.

    Returns:
        (2, n) log-likelihoods by either model, nats, and (n,) sums over positions of the exact KL
        of the next token, of the model that wrote a response from the other one, nats.

    Raises:
        PermanentFailure: a number is not finite, or a model's own code fails.
    """
    prompts = [readers[0].ids[item.place] for item in kept]
    sequences = [
        [*prompt, *item.ids, *item.end] for prompt, item in zip(prompts, kept, strict=True)
    ]
    plan = scorer_run.make_plan(sequences, how.limit, [len(prompt) for prompt in prompts])
    progress = Progress(sum(piece.length for piece in plan.pieces), "tokens")
    values = scorer_compare.tokenwise(models, plan, how.budget, progress, how.temperature)
    progress.close()
    names = scorer_compare.VALUES
    rows = [names.index(name) for name in ("loglik", "loglik_second", "kl", "kl_back")]
    sums = np.stack([scorer_run.text_sums(values[row], plan.offset) for row in rows])
    source = np.array([item.source for item in kept])
    return sums[:2], np.where(source == 0, sums[2], sums[3])


def as_text(
    how: How,
    models: tuple[CausalModel, CausalModel],
    readers: Sequence[Reader],
    kept: Sequence[Written],
) -> tuple[Floats, Floats]:
    """Score responses as their text, which each model cuts into tokens in its own way.

    An end counts where both models have one.

    Returns:
        (2, n) log-likelihoods by either model, nats, and n times NaN for what :func:`as_tokens`
        gives beside them.

    Raises:
        PermanentFailure: a number is not finite, or a model's own code fails.
    """
    both_end = all(reader.stops for reader in readers)
    ended = np.array([bool(item.end) and both_end for item in kept])
    places, texts = [item.place for item in kept], [item.text for item in kept]
    found = []
    for model, reader in zip(models, readers, strict=True):
        sequences, first = reader.responses(places, texts, ended)
        tokens.check_ids(sequences, model.rows)
        found.append(
            scorer_responses.loglik(
                model, sequences, first, ended, reader.stops, how.limit, how.budget,
                how.temperature,
            )
        )  # fmt: skip
    return np.stack(found), np.full(len(kept), np.nan)


def describe(result: Samples, kept: Sequence[Written], readers: Sequence[Reader]) -> None:
    """Write down what the responses are, all but how likely."""
    result.text = [item.text for item in kept]
    result.prompt = np.array([item.place for item in kept], np.int32)
    result.source = np.array([item.source for item in kept], np.int8)
    result.number = np.array([item.number for item in kept], np.int32)
    result.n_bytes = np.array([len(item.text.encode()) for item in kept], np.int32)
    result.n_tokens = np.array([len(item.ids) + len(item.end) for item in kept], np.int32)
    result.ended = np.array([bool(item.end) for item in kept])
    result.features = np.zeros((len(kept), 0), np.float32)
    result.canonical = np.zeros(len(kept), np.bool_)
    for source, reader in enumerate(readers):
        mine = [row for row, item in enumerate(kept) if item.source == source]
        whole = [reader.prompts[kept[row].place] + kept[row].text for row in mine]
        for row, ids in zip(mine, reader.tokenizer.engine.encode(whole), strict=True):
            sampled = [*reader.ids[kept[row].place], *kept[row].ids]
            # What stands before a text by itself is no part of its own tokens.
            result.canonical[row] = sampled[len(sampled) - len(ids) :] == ids


def features_of(
    how: How, model: CausalModel, reader: Reader, kept: Sequence[Written]
) -> npt.NDArray[np.float32]:
    """Features of responses by themselves, without their prompts, for MAUVE.

    Args:
        how: the batches.
        model: whose last hidden states they are.
        reader: how it reads.
        kept: n responses.

    Returns:
        (n, H) float32; NaN for a response without a token.
    """
    encoded = tokens.encode(
        reader.tokenizer, [item.text for item in kept], prefix=reader.prefix,
        overlength="window", limit=None,
    )  # fmt: skip
    sequences = [ids[: how.limit] for ids in encoded.sequences]
    behind = len(reader.tokenizer.after) if reader.prefix != "bos" else 0
    skipped = [
        len(ids) - count - behind if ids else 0
        for ids, count in zip(encoded.sequences, encoded.n_tokens, strict=True)
    ]
    return scorer_responses.features(model, sequences, skipped, how.budget)
