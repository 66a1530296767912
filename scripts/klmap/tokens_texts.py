"""The texts of a set as a model reads them: alone, behind prompts, and both ways for PMI.

A plain text is scored from its beginning, a response behind its prompt (Takase et al. 2026). For
pointwise mutual information each response is read a second time without its prompt, under the
policies of a plain set of these responses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klmap import tokens, tokens_chat
from klmap.errors import PermanentFailure
from klmap.log import logger
from klmap.texts import Text
from klmap.tokens import Encoded, TextTokenizer


@dataclass(frozen=True)
class Reading:
    """What a model reads of N texts.

    Attributes:
        encoded: the texts, behind their prompts where they have any.
        alone: responses without their prompts; None where nobody asks for PMI.
        template: of the chat; None where prompts are plain text, or there are none.
    """

    encoded: Encoded
    alone: Encoded | None = None
    template: str | None = None

    @property
    def sequences(self) -> list[list[int]]:
        """N lists of token ids, or 2 N: behind them those of the responses alone."""
        return self.encoded.sequences + ([] if self.alone is None else self.alone.sequences)

    @property
    def first(self) -> list[int]:
        """The position of the first scored token of each of these sequences."""
        return self.encoded.first + ([] if self.alone is None else self.alone.first)

    @property
    def is_paired(self) -> bool:
        """Whether the texts are responses to prompts."""
        return bool(self.encoded.boundary_rule)

    @property
    def identity(self) -> list[list[int]]:
        """All that decides which tokens are scored, as lists of numbers, for the side file."""
        return [*self.sequences, self.first] if self.is_paired else self.sequences

    def attributes(self) -> dict[str, Any]:
        """What a score file says of prompts; nothing for plain texts."""
        if not self.is_paired:
            return {}
        found: dict[str, Any] = {
            "template": "none" if self.template is None else "model",
            "boundary_rule": self.encoded.boundary_rule,
            "n_crossing": sum(self.encoded.crossing),
        }
        if self.template is not None:
            found["template_sha256"] = hashlib.sha256(self.template.encode()).hexdigest()
        if self.alone is not None:
            found["n_without_first"] = self.alone.n_headless
        return found


def read(
    tokenizer: TextTokenizer,
    folder: Path,
    texts: Sequence[Text],
    *,
    prefix: str,
    overlength: str,
    limit: int | None,
    pmi: bool = False,
    encode: Callable[..., Encoded] = tokens.encode,
) -> Reading:
    """Tokenise a text set, with what its prompts ask for.

    Args:
        tokenizer: the model's tokenizer.
        folder: where its files are; the chat template is one of them.
        texts: N texts, all with prompts or none.
        prefix: policy for what stands around a text, see :func:`klmap.tokens.encode`. Around what
            a chat template writes, ``default`` adds nothing.
        overlength: policy for what is longer than the limit, likewise.
        limit: longest input in tokens; None without one.
        pmi: whether responses are also read without their prompts.
        encode: makes the sequences; another kind of likelihood has one of its own.

    Raises:
        PermanentFailure: the tokenizer loses the spaces, a text is too long, a response is cut away
            as a whole, or there is no chat template, or one that refuses a conversation.
    """
    policies: dict[str, Any] = {"prefix": prefix, "overlength": overlength, "limit": limit}
    responses = [text.text for text in texts]
    if not texts[0].is_paired:
        return Reading(encode(tokenizer, responses, **policies))
    template = None
    if texts[0].prompt is None:
        template = tokens_chat.read_template(folder)
        special = tokens_chat.special_tokens(folder, tokenizer)
        prompts = tokens_chat.render(template, [text.messages or () for text in texts], special)
    else:
        prompts = [text.prompt or "" for text in texts]
    encoded = encode(tokenizer, responses, prompts=prompts, affixes=template is None, **policies)
    _refuse_lost(encoded, limit)
    if not pmi:
        return Reading(encoded, template=template)
    alone = encode(tokenizer, responses, **policies)
    if alone.n_headless:
        logger.warning(
            "PMI: the first token of %d of %d responses has no probability without a prompt, "
            "because nothing stands in front of it; what the PMI holds of that token is its "
            "log-probability behind the prompt alone. prefix: bos avoids that",
            alone.n_headless,
            len(texts),
        )
    return Reading(encoded, alone, template)


def _refuse_lost(encoded: Encoded, limit: int | None) -> None:
    """Refuse responses of which nothing is left: a log-likelihood of 0 would be the best of all."""
    counts = zip(encoded.truncated, encoded.n_tokens, encoded.sequences, strict=True)
    lost = [n for n, (cut, count, ids) in enumerate(counts) if cut and count and not ids]
    if lost:
        others = f" (and of {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise PermanentFailure(
            f"overlength: truncate leaves nothing of the response of text {lost[0]}{others}: its "
            f"prompt fills the {limit} tokens that the model takes; set overlength: window, or "
            "give shorter prompts"
        )
