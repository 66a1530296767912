"""Models that read from left to right: each token given those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from klmap import scorer_plan
from klmap.errors import PermanentFailure
from klmap.scorer_head import Head
from klmap.scorer_kind import Model, send
from klmap.scorer_plan import Piece, Plan


class CausalModel(Model):
    """A loaded model that gives log-probabilities of chosen next tokens."""

    loads: ClassVar[str] = "AutoModelForCausalLM"
    means: ClassVar[str] = "a causal language model"
    heads: ClassVar[tuple[str, ...]] = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    reads_layers: ClassVar[bool] = True

    @property
    def body(self) -> nn.Module:
        """The model without its head."""
        body: nn.Module = self.model.base_model
        return body

    def _find_head(self) -> Head | None:
        """The own head, where there is a body to run without the model's."""
        return None if self.model.base_model is self.model else super()._find_head()

    def plan(
        self,
        sequences: Sequence[Sequence[int]],
        limit: int | None,
        first: Sequence[int] | None = None,
    ) -> Plan:
        """Cut sequences into windows; every token but a sequence's first is scored in one."""
        return scorer_plan.make_plan(sequences, limit, first)

    def score(self, plan: Plan, batch: Sequence[Piece]) -> Tensor:
        """Log-probabilities of the tokens that one batch scores, piece after piece."""
        return self.logprobs(*self.batch(plan, batch))

    def batch(self, plan: Plan, batch: Sequence[Piece]) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of :meth:`logprobs` for a batch, on their devices."""
        width = batch[0].length
        ids = np.zeros((len(batch), width), np.int64)
        rows, targets = [], []
        for number, piece in enumerate(batch):
            window = piece.window
            sequence = np.asarray(plan.sequences[piece.text][window.start : window.stop])
            ids[number, : piece.length] = sequence[:-1]
            scored = np.arange(window.first - window.start, len(sequence))
            rows.append(number * width + scored - 1)
            targets.append(sequence[scored])
        places = send(np.concatenate(rows), self.output_device)
        wanted = send(np.concatenate(targets), self.output_device)
        return send(ids, self.device), places, wanted

    def logprobs(self, ids: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities of tokens given all tokens to the left of them.

        Args:
            ids: (B, T) right-padded token ids. No attention mask is needed: a causal model never
                looks at the padding behind a text.
            rows: (R,) positions ``b * T + t`` that predict.
            targets: (R,) ids of the tokens at ``t + 1``.

        Returns:
            (R,) nats, float32 or float64 as the head computes.
        """
        return self.read(self.given(ids), rows, targets)

    def given(self, ids: Tensor) -> dict[str, Any]:
        """What the model is called with."""
        return {"input_ids": ids, "use_cache": False}

    def hidden(self, given: Any) -> Tensor:
        """(B, T, H) final hidden states, from the body alone."""
        hidden: Tensor = self.body(**given)[0]
        return hidden

    def check(self, ids: Tensor) -> None:
        """Look for a dependence on later tokens.

        Raises:
            PermanentFailure: the model is no causal language model.
        """
        if self.mixes_batches:
            return  # an outlier in a later token moves earlier ones a little, too
        changed = ids.clone()
        changed[0, -1] = self.other(changed[0, -1])
        moves, rounding = self.moved(self.given(ids), self.given(changed))
        moved = float(moves[:-1].max())
        if moved > rounding:
            raise PermanentFailure(
                "the model looks at later tokens (changing the last token of a text moves earlier "
                f"logits by {moved:.2g}): it is no causal language model"
            )
