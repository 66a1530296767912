"""Masked language models: the pseudo-log-likelihood of a text.

Each token is masked alone, and given all others; the sum of these log-probabilities stands for the
log-likelihood (Salazar et al. 2020, "Masked Language Model Scoring"). It is the log-probability of
no distribution over texts. Maps of it, and what is done with long texts and with prompts, are
klmap's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from klmap.errors import PermanentFailure
from klmap.files import read_json
from klmap.scorer_kind import Model, send
from klmap.scorer_plan import Piece, Plan
from klmap.tokens import Encoded, TextTokenizer, Window

ROW_TOKENS = 1024
"""Tokens of the copies of one text, each with another token masked, that make one piece (own)."""

POSITIONS_BEHIND_PADDING = frozenset(
    {
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "longformer",
        "luke",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
"""Model types whose positions are numbered from the id of the padding token on, so that
max_position_embeddings promises more tokens than fit."""


@dataclass(frozen=True)
class Masking(Piece):
    """Some tokens of a text, each masked in a copy of its own.

    Attributes:
        last: position behind the last token masked; ``window.first`` is the first one.
        around: special tokens in front of and behind the window.
    """

    last: int
    around: int

    @property
    def mates(self) -> int:
        """Tokens of a copy: no row of a batch is padded."""
        return self.window.stop - self.window.start + self.around

    @property
    def length(self) -> int:
        """Tokens that go through the model."""
        return self.mates * self.scored

    @property
    def scored(self) -> int:
        """Tokens that are masked."""
        return self.last - self.window.first


class MaskedModel(Model):
    """A loaded model that gives log-probabilities of masked tokens."""

    loads: ClassVar[str] = "AutoModelForMaskedLM"
    means: ClassVar[str] = "a masked language model, by its pseudo-log-likelihood"
    heads: ClassVar[tuple[str, ...]] = ("ForMaskedLM", "WithLMHeadModel", "ForPreTraining")
    own_specials: ClassVar[bool] = True

    def __init__(self, model: Any, tokenizer: TextTokenizer | None = None) -> None:
        super().__init__(model, tokenizer)
        if tokenizer is None or tokenizer.mask_id is None:
            raise PermanentFailure(
                "likelihood: masked needs a mask token, and the tokenizer's files name none "
                "(mask_token in tokenizer_config.json or special_tokens_map.json)"
            )
        self.mask_id = tokenizer.mask_id
        self.front, self.behind = len(tokenizer.before), len(tokenizer.after)

    @classmethod
    def limit(cls, folder: Path) -> int | None:
        """Longest input in tokens; positions may begin behind that of the padding."""
        found = super().limit(folder)
        config = read_json(folder / "config.json")
        if found is None or config.get("model_type") not in POSITIONS_BEHIND_PADDING:
            return found
        padding = config.get("pad_token_id")
        return found - (1 if padding is None else int(padding)) - 1

    @classmethod
    def encode(cls, tokenizer: TextTokenizer, texts: Sequence[str], **policies: Any) -> Encoded:
        """Token ids with the special tokens of the tokenizer, none of which is scored.

        Raises:
            PermanentFailure: ``prefix`` is ``bos``, or as :func:`klmap.tokens.encode`.
        """
        if policies["prefix"] != "default":
            raise PermanentFailure(
                "likelihood: masked reads a text between the special tokens that its tokenizer "
                f"adds by itself; remove prefix: {policies['prefix']}, or set it to default"
            )
        if not policies.get("affixes", True):
            raise PermanentFailure(
                "likelihood: masked knows no chat template; use template: none for these texts"
            )
        encoded = super().encode(tokenizer, texts, **policies)
        encoded.n_headless = 0
        if not tokenizer.before:
            # A first token that nothing stands in front of is scored all the same.
            prompts = policies.get("prompts") or [""] * len(texts)
            pairs = zip(encoded.first, prompts, strict=True)
            encoded.first = [begin if prompt else 0 for begin, prompt in pairs]
        return encoded

    def plan(
        self,
        sequences: Sequence[Sequence[int]],
        limit: int | None,
        first: Sequence[int] | None = None,
    ) -> Plan:
        """Mask every token of the texts, or of the responses, once.

        Texts that are too long are cut into disjoint parts, and each part is scored with as much
        around it as fits (own).

        Raises:
            PermanentFailure: the limit leaves no room for a token.
        """
        pieces: list[Piece] = []
        offset = np.zeros(len(sequences) + 1, np.int64)
        around = self.front + self.behind
        for text, sequence in enumerate(sequences):
            position = int(offset[text])
            stop = len(sequence) - self.behind
            begin = self.front if first is None else max(first[text], self.front)
            room = max(stop - self.front, 1) if limit is None else limit - around
            if room < 1:
                raise PermanentFailure(f"a context of {limit} tokens leaves no room for a text")
            for part, end, window in windows_around(self.front, stop, begin, room):
                rows = max(ROW_TOKENS // (window[1] - window[0] + around), 1)
                for masked in range(part, end, rows):
                    last = min(masked + rows, end)
                    place = Window(*window, masked)
                    pieces.append(Masking(text, place, position, last, around))
                    position += last - masked
            offset[text + 1] = position
        return Plan(sequences, pieces, offset)

    def score(self, plan: Plan, batch: Sequence[Piece]) -> Tensor:
        """Log-probabilities of the masked tokens, piece after piece."""
        width = batch[0].mates
        ids, rows, targets = [], [], []
        filled = 0
        for piece in batch:
            sequence = np.asarray(plan.sequences[piece.text], np.int64)
            window = piece.window
            masked = np.arange(window.first, window.first + piece.scored)
            places = masked - window.start + self.front
            front, behind = sequence[: self.front], sequence[len(sequence) - self.behind :]
            whole = np.concatenate([front, sequence[window.start : window.stop], behind])
            copies = np.tile(whole, (piece.scored, 1))
            copies[np.arange(piece.scored), places] = self.mask_id
            ids.append(copies)
            rows.append((filled + np.arange(piece.scored)) * width + places)
            targets.append(sequence[masked])
            filled += piece.scored
        return self.read(
            self.given(send(np.concatenate(ids), self.device)),
            send(np.concatenate(rows), self.output_device),
            send(np.concatenate(targets), self.output_device),
        )

    def given(self, ids: Tensor) -> dict[str, Any]:
        """What the model is called with: all tokens are seen, whatever their ids."""
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def described(self) -> dict[str, Any]:
        """The id of the mask."""
        return {"mask_id": self.mask_id}

    def check(self, ids: Tensor) -> None:
        """Look for a dependence on later tokens, which a causal model does not have.

        Raises:
            PermanentFailure: there is none.
        """
        changed = ids.clone()
        changed[0, -1] = self.other(changed[0, -1])
        moves, _ = self.moved(self.given(ids), self.given(changed))
        if float(moves[:-1].max()) == 0.0:
            raise PermanentFailure(
                "the model looks at no later token (changing the last token of a text moves no "
                "earlier logit): it is a causal language model; use likelihood: causal"
            )


def windows_around(
    start: int, stop: int, begin: int, room: int
) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Parts of a text, each with the window of the text in which it is scored.

    Args:
        start: position of the text's first token.
        stop: position behind its last one.
        begin: position of the first token that is scored.
        room: tokens of the text that fit beside the special ones.

    Yields:
        First position of a part, the position behind its end, and those of its window. A part
        fills half of the room, and lies in the middle of its window where the text allows.
    """
    size = stop - begin if stop - start <= room else max(room // 2, 1)
    for part in range(begin, stop, max(size, 1)):
        end = min(part + size, stop)
        left = max(min(part - (room - (end - part)) // 2, stop - room), start)
        yield part, end, (left, min(left + room, stop))
