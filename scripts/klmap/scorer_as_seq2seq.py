"""Encoder-decoders: the log-likelihood of a response by a model that has read the prompt.

The encoder reads the prompt as its tokenizer makes it, the decoder predicts the response token by
token. Such models give a conditional probability alone, so only responses to prompts are scored.
That these stand on a map is klmap's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from klmap import tokens
from klmap.errors import PermanentFailure
from klmap.scorer_kind import Model, send
from klmap.scorer_plan import Piece, Plan
from klmap.tokens import Encoded, TextTokenizer, Window


@dataclass(frozen=True)
class Decoding(Piece):
    """A window of a response, behind a prompt that the encoder has read.

    Attributes:
        source: tokens that the encoder reads; the first of the sequence. Positions of the window
            are those of the sequence.
    """

    source: int

    @property
    def mates(self) -> int:
        """Tokens of the encoder: none of its rows is padded."""
        return self.source

    @property
    def length(self) -> int:
        """Tokens that go through encoder and decoder."""
        return self.source + super().length


class Seq2SeqModel(Model):
    """A loaded encoder-decoder that gives log-probabilities of the tokens of responses."""

    loads: ClassVar[str] = "AutoModelForSeq2SeqLM"
    means: ClassVar[str] = "an encoder-decoder"
    heads: ClassVar[tuple[str, ...]] = ("ForConditionalGeneration", "LMHeadModel", "Model")
    encoder_decoder: ClassVar[bool] = True
    needs_prompts: ClassVar[bool] = True
    own_specials: ClassVar[bool] = True

    def __init__(self, model: Any, tokenizer: TextTokenizer | None = None) -> None:
        super().__init__(model, tokenizer)
        self.begin = _decoder_start(model)
        self.front = 0 if tokenizer is None else len(tokenizer.before)

    @classmethod
    def encode(cls, tokenizer: TextTokenizer, texts: Sequence[str], **policies: Any) -> Encoded:
        """Token ids of the prompt for the encoder, and behind them those of the response.

        Prompt and response are tokenised apart. Around the prompt stands what the tokenizer adds by
        itself; in front of the response what it puts in front of a text (as in labels), which is
        not scored; nothing stands behind it. Of a prompt that is too long for the encoder the
        end is kept (own).

        Raises:
            PermanentFailure: ``prefix`` is ``bos``, the tokenizer loses the spaces between words,
                or a text is too long and ``overlength`` is ``fail``.
        """
        if policies["prefix"] != "default":
            raise PermanentFailure(
                "likelihood: seq2seq begins with the tokens that the model was trained to begin "
                f"with; remove prefix: {policies['prefix']}, or set it to default"
            )
        affixes = policies.get("affixes", True)
        before, after = (tokenizer.before, tokenizer.after) if affixes else ([], [])
        prompts = policies.get("prompts") or [""] * len(texts)
        policy, limit = policies["overlength"], policies["limit"]
        responses = tokens.encode(
            tokenizer, texts, prefix="default", overlength="window", limit=None, affixes=False
        )
        sources = tokenizer.engine.encode(prompts)
        result = Encoded(
            bos_id=responses.bos_id, prefix_source="decoder", boundary_rule="apart",
            share_changed=responses.share_changed,
        )  # fmt: skip
        for number, (prompt, response) in enumerate(zip(sources, responses.sequences, strict=True)):
            source = [*before, *prompt, *after]
            target = [*tokenizer.before, *response]
            longest = max(len(source), len(target) + 1)
            over = limit is not None and longest > limit
            if over and policy == "fail":
                raise PermanentFailure(
                    f"text {number} has {longest} tokens on one side, the model takes {limit}; set "
                    "overlength: to window or truncate, or give shorter prompts or responses"
                )
            if limit is not None and over:
                room = max(limit - len(before) - len(after), 0)
                source = [*before, *prompt[max(len(prompt) - room, 0) :], *after]
                target = target[: limit - 1] if policy == "truncate" else target
            is_left = len(target) > len(tokenizer.before)
            result.sequences.append([*source, *target] if is_left else [])
            result.first.append(len(source) + len(tokenizer.before))
            result.n_tokens.append(len(response))
            result.truncated.append(over and policy == "truncate")
            result.crossing.append(False)
        return result

    def plan(
        self,
        sequences: Sequence[Sequence[int]],
        limit: int | None,
        first: Sequence[int] | None = None,
    ) -> Plan:
        """Put the decoder's first token behind each prompt, and cut what follows into windows.

        Raises:
            PermanentFailure: there are no prompts.
        """
        if first is None:
            raise PermanentFailure("likelihood: seq2seq scores responses to prompts alone")
        begun: list[list[int]] = []
        pieces: list[Piece] = []
        offset = np.zeros(len(sequences) + 1, np.int64)
        for text, sequence in enumerate(sequences):
            source = first[text] - self.front
            whole = [*sequence[:source], self.begin, *sequence[source:]] if sequence else []
            begun.append(whole)
            position = int(offset[text])
            for window in tokens.windows(len(whole) - source, limit):
                scored = max(window.first, 1 + self.front)
                if window.stop > scored:
                    place = Window(window.start + source, window.stop + source, scored + source)
                    pieces.append(Decoding(text, place, position, source))
                    position += window.stop - scored
            offset[text + 1] = position
        return Plan(begun, pieces, offset)

    def score(self, plan: Plan, batch: Sequence[Piece]) -> Tensor:
        """Log-probabilities of the tokens of the responses, piece after piece."""
        source = batch[0].mates
        width = batch[0].length - source
        read = np.array([plan.sequences[piece.text][:source] for piece in batch], np.int64)
        ids = np.zeros((len(batch), width), np.int64)
        rows, targets = [], []
        for number, piece in enumerate(batch):
            window = piece.window
            written = np.asarray(plan.sequences[piece.text][window.start : window.stop])
            ids[number, : len(written) - 1] = written[:-1]
            scored = np.arange(window.first - window.start, len(written))
            rows.append(number * width + scored - 1)
            targets.append(written[scored])
        given = self._given(send(read, self.device), send(ids, self.device))
        places = send(np.concatenate(rows), self.output_device)
        return self.read(given, places, send(np.concatenate(targets), self.output_device))

    def given(self, ids: Tensor) -> dict[str, Any]:
        """The same tokens for encoder and decoder."""
        return self._given(ids, ids)

    def _given(self, source: Tensor, written: Tensor) -> dict[str, Any]:
        # Without masks T5Gemma hides whatever has the id of its padding.
        return {
            "input_ids": source,
            "attention_mask": torch.ones_like(source),
            "decoder_input_ids": written,
            "decoder_attention_mask": torch.ones_like(written),
            "use_cache": False,
        }

    def described(self) -> dict[str, Any]:
        """The id that decoding begins with."""
        return {"decoder_start_id": self.begin}

    def check(self, ids: Tensor) -> None:
        """Look for a dependence on the prompt, and on later tokens of the response.

        Raises:
            PermanentFailure: there is none of the first, or one of the second.
        """
        if self.mixes_batches:
            return  # an outlier in a later token moves earlier ones a little, too
        changed = ids.clone()
        changed[0, -1] = self.other(changed[0, -1])
        moves, rounding = self.moved(self.given(ids), self._given(ids, changed))
        moved = float(moves[:-1].max())
        if moved > rounding:
            raise PermanentFailure(
                "the decoder looks at later tokens (changing the last token of a response moves "
                f"earlier logits by {moved:.2g}): it gives no likelihood"
            )
        moves, _ = self.moved(self.given(ids), self._given(changed, ids))
        if float(moves.max()) == 0.0:
            raise PermanentFailure(
                "the decoder does not look at what the encoder has read (changing the last token "
                "of a prompt moves no logit)"
            )


def _decoder_start(model: Any) -> int:
    """The token that decoding begins with, as the model's own generation takes it.

    Raises:
        PermanentFailure: none is named.
    """
    inner = model.config.get_text_config(decoder=True)
    for name in ("decoder_start_token_id", "bos_token_id"):
        for settings in (model.generation_config, model.config, inner):
            found = getattr(settings, name, None)
            if isinstance(found, int):
                return found
    raise PermanentFailure(
        "neither config.json nor generation_config.json names a decoder_start_token_id, the token "
        "that decoding begins with; add it to a copy of the folder"
    )
