"""Prefix language models: a causal architecture whose prompt is read in both directions.

Each token of the prompt attends to the whole prompt, the response is predicted from left to right
(the prefix LM of Raffel et al. 2020). Whether a model was trained for it, its files do not say.
That such likelihoods stand on a map is klmap's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from klmap import scorer_plan
from klmap.errors import PermanentFailure
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_plan import Piece, Plan


@dataclass
class PrefixPlan(Plan):
    """All windows of a text set, and where prompts end.

    Attributes:
        first: N positions of the first token of each response.
    """

    first: Sequence[int] = field(default_factory=list)


class PrefixModel(CausalModel):
    """A loaded model that reads prompts in both directions."""

    loads: ClassVar[str] = "AutoModelForCausalLM"
    means: ClassVar[str] = "a prefix language model"
    heads: ClassVar[tuple[str, ...]] = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    needs_prompts: ClassVar[bool] = True
    reads_layers: ClassVar[bool] = False

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        super().__init__(model, tokenizer)
        config = model.config.get_text_config()
        kinds = getattr(config, "layer_types", None)
        slides = getattr(config, "sliding_window", None) is not None if kinds is None else None
        if slides or any(kind != "full_attention" for kind in kinds or ()):
            raise PermanentFailure(
                "likelihood: prefix needs layers that attend to the whole text, and some of this "
                "model's see a window of it, or are recurrent; use likelihood: causal"
            )

    def plan(
        self,
        sequences: Sequence[Sequence[int]],
        limit: int | None,
        first: Sequence[int] | None = None,
    ) -> Plan:
        """The windows of a causal model; what of the prompt stands in one is seen from all of it.

        Raises:
            PermanentFailure: there are no prompts.
        """
        if first is None:
            raise PermanentFailure("likelihood: prefix scores responses to prompts alone")
        plan = scorer_plan.make_plan(sequences, limit, first)
        return PrefixPlan(plan.sequences, plan.pieces, plan.offset, first)

    def score(self, plan: Plan, batch: Sequence[Piece]) -> Tensor:
        """Log-probabilities of the tokens of the responses, piece after piece."""
        assert isinstance(plan, PrefixPlan)
        ids, rows, targets = self.batch(plan, batch)
        seen = [plan.first[piece.text] - piece.window.start for piece in batch]
        return self.read(self._given(ids, seen), rows, targets)

    def given(self, ids: Tensor) -> dict[str, Any]:
        """A short text whose first half is the prompt."""
        return self._given(ids, [ids.shape[1] // 2])

    def _given(self, ids: Tensor, seen: Sequence[int]) -> dict[str, Any]:
        """Token ids with a mask that lets each token see what is before it, and the prompt.

        Args:
            ids: (B, T) right-padded token ids.
            seen: B lengths of the prompts; not positive where nothing of it is in the window.
        """
        width, dtype = ids.shape[1], self.model.dtype
        hidden = torch.full((width, width), torch.finfo(dtype).min, dtype=dtype, device=ids.device)
        mask = hidden.triu(1).repeat(len(seen), 1, 1, 1)
        for number, length in enumerate(seen):
            mask[number, :, :, : max(length, 0)] = 0
        return {"input_ids": ids, "attention_mask": mask, "use_cache": False}

    def check(self, ids: Tensor) -> None:
        """See that the prompt is read in both directions, and the response in one.

        Raises:
            PermanentFailure: this class of model does not obey such a mask.
        """
        seen = ids.shape[1] // 2
        changed = ids.clone()
        changed[0, seen - 1] = self.other(changed[0, seen - 1])
        moves, _ = self.moved(self.given(ids), self.given(changed))
        if seen > 1 and float(moves[: seen - 1].min()) == 0.0:
            raise PermanentFailure(
                "likelihood: prefix needs a class of model that lets tokens of the prompt see "
                "later ones, and this one does not (changing the last token of a prompt does not "
                "move all earlier logits); use likelihood: causal"
            )
        changed = ids.clone()
        changed[0, -1] = self.other(changed[0, -1])
        moves, rounding = self.moved(self.given(ids), self.given(changed))
        if float(moves[:-1].max()) > rounding and not self.mixes_batches:
            raise PermanentFailure(
                "the model looks at later tokens of the response (changing the last one moves "
                f"earlier logits by {float(moves[:-1].max()):.2g}): it gives no likelihood"
            )
