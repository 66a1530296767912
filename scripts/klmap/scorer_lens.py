"""The logit lens: what a model would predict if it ended behind one of its earlier blocks.

Hidden state n is the residual stream behind n blocks, as the next block is given it, so number 0
is what comes out of the embeddings. It goes through whatever the model has behind its last block,
which is its final norm, and through its own head. Hidden state H, behind all H blocks, is the model
itself.

All hidden states are read while one forward pass runs, and what is kept of each is one sum per
window. Kishino et al. 2026 compare layers by this lens; how it is computed is klmap's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from klmap.errors import PermanentFailure
from klmap.log import logger
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_head import logprobs_of
from klmap.scorer_kind import Model
from klmap.scorer_load import raise_for_model
from klmap.scorer_products import PackedLinear

ALL = "all"

IDLE = (nn.Dropout, nn.Identity)
"""Modules that do nothing in evaluation mode, and need no mention."""


class Lens:
    """Reads hidden states of a model through its own final norm and head.

    Blocks and final norm are found by watching one short text: the blocks are the list of modules
    that run one behind the other, each given the residual stream; the final norm is what runs
    behind the last of them. Both are checked: the residual stream behind the last block has to
    give what the model gives.

    Args:
        model: loaded, verified, and with its final matrix products (packed or not).
        wanted: ``all``, or numbers of hidden states in ascending order.
        sample: token ids of one text.

    Attributes:
        depth: H, the number of blocks.
        layers: the Y hidden states that are read, each from 0 to H - 1.
        name: what stands between a hidden state and the head, with its place in the model.
        sums: (Y, P) float64, nats per window, in the order in which they are scored.

    Raises:
        PermanentFailure: the model has no such layer, or is built in a way that cannot be read.
    """

    def __init__(self, model: Model, wanted: str | Sequence[int], sample: Sequence[int]) -> None:
        if not isinstance(model, CausalModel) or not model.reads_layers:
            _refuse("hidden states are read in causal language models, under likelihood: causal")
        if model.head is None:
            _refuse(
                "the logits of this model come from its own code, because it has no plain head or "
                "klmap's gives other logits; that code cannot be given an earlier hidden state"
            )
        self.model = model
        self.head = model.head
        blocks, tail = self._find(torch.tensor([list(sample) or [0]], device=model.device))
        self.depth = len(blocks)
        self.layers = _numbers(wanted, self.depth)
        self.blocks = [model.body.get_submodule(blocks[number]) for number in self.layers]
        self.tail = list(tail.values())
        self.name = _named(tail)
        self.begin(0)
        logger.info("%d hidden states are read through: %s", len(self.layers), self.name)

    @torch.inference_mode()
    def _find(self, ids: Tensor) -> tuple[list[str], dict[str, nn.Module]]:
        """Names of the blocks, and by name what runs behind the last of them."""
        body = self.model.body
        depth = getattr(self.model.model.config.get_text_config(), "num_hidden_layers", None)
        lists = [
            [f"{name}.{number}" for number in range(len(module))]
            for name, module in body.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == depth
        ]
        try:
            trace = _watch(body, ids, {name for names in lists for name in names})
        except Exception as error:
            raise_for_model(error, "the model fails on a text")
        found = [names for names in lists if trace.is_chain(names, ids)]
        if len(found) != 1:
            _refuse(
                f"the blocks of this model are not found: {len(found)} lists of {depth} modules "
                "(num_hidden_layers) run one behind the other on a residual stream, not one"
            )
        (blocks,) = found
        behind = {name: body.get_submodule(name) for name in trace.behind(blocks[-1])}
        tail = {name: module for name, module in behind.items() if not isinstance(module, IDLE)}
        self._check(trace, blocks[-1], tail)
        return blocks, tail

    def _check(self, trace: _Trace, last: str, tail: Mapping[str, nn.Module]) -> None:
        """See that what the last block gives leads to what the model gives."""
        expected = trace.hidden
        try:
            found = _through(tail.values(), trace.streams[last].to(expected.device))
        except Exception as error:
            if not isinstance(error, (TypeError, RuntimeError, AttributeError, ValueError)):
                raise
            _refuse(f"what runs behind the last block takes more than a hidden state ({error})")
        if found.shape != expected.shape:
            _refuse(f"hidden states are {tuple(found.shape)}, the model's {tuple(expected.shape)}")
        difference = float((found - expected).abs().max())
        if not difference <= self.model.tolerance(expected):
            _refuse(
                f"what the last block gives, read through {_named(tail)}, is off the hidden state "
                f"of the model by {difference:.2g}, so something else happens in between"
            )

    def begin(self, count: int, done: Any = None) -> None:
        """Make room for the sums of a text set.

        Args:
            count: P, windows of all texts.
            done: (Y, p) float64, sums of the first p windows, from an earlier attempt.
        """
        shape = (len(self.layers), count)
        self.sums = torch.zeros(shape, dtype=torch.float64, device=self.model.output_device)
        if done is not None:
            self.sums[:, : done.shape[1]] = torch.from_numpy(done)

    @contextlib.contextmanager
    def reading(self, rows: Tensor, targets: Tensor, start: int, count: int) -> Iterator[None]:
        """Fill the sums of one batch from the forward pass that runs meanwhile.

        Beyond that pass, memory is needed for one hidden state of the batch and for one block of
        logits, both of which the model's own end needs too, however many layers are read; what is
        kept is 8 bytes per layer and window. On several GPUs hidden states are copied to
        the one that holds the head, one at a time.

        Args:
            rows: (R,) positions ``b * T + t`` that predict.
            targets: (R,) ids of the tokens at ``t + 1``.
            start: the first window of the batch.
            count: B, its windows.
        """
        with contextlib.ExitStack() as stack:
            for block, sums in zip(self.blocks, self.sums[:, start : start + count], strict=True):
                hook = self._hook(rows, targets, sums)
                handle = block.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def _hook(self, rows: Tensor, targets: Tensor, sums: Tensor) -> Callable[..., None]:
        """Runs before a block, and sums what its hidden state says of each window."""

        def read(_: nn.Module, arguments: Any, named: Any) -> None:
            hidden = _stream(arguments, named)
            logprobs = self.logprobs(hidden, rows, targets)
            # Every sum runs over a whole row: a scattered sum on a GPU would depend on chance.
            whole = sums.new_zeros(hidden.shape[0] * hidden.shape[1])
            whole[rows] = logprobs.to(whole.dtype)
            sums.copy_(whole.view(hidden.shape[:2]).sum(1))

        return read

    def logprobs(self, hidden: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities of tokens by one hidden state.

        The final norm is given the whole batch, as the model gives it, so that hidden state H has
        the numbers of the model to the last bit.

        Args:
            hidden: (B, T, D).
            rows: (R,) positions ``b * T + t`` that predict.
            targets: (R,) ids of the tokens at ``t + 1``.

        Returns:
            (R,) nats, float32 or float64 as the head computes.
        """
        # Stages keep what they copy until the batch ends; what lies here already they leave alone.
        hidden = _through(self.tail, hidden.to(self.model.output_device))
        return logprobs_of(self.head, hidden.flatten(0, 1)[rows], targets)


@dataclass
class _Trace:
    """What runs in the body of a model on one short text.

    Attributes:
        events: names of modules, each with whether it begins or ends, in order.
        shapes: by block, the shape of what it is given.
        streams: by block, what it gives.
        hidden: (1, T, D) what the body gives.
    """

    hidden: Tensor = field(default_factory=lambda: torch.zeros(0))
    events: list[tuple[str, bool]] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    streams: dict[str, Tensor] = field(default_factory=dict)

    def is_chain(self, names: Sequence[str], ids: Tensor) -> bool:
        """Whether modules run once each, in order, and are given the residual stream."""
        wanted = set(names)
        begun = [name for name, begins in self.events if begins and name in wanted]
        shapes = [self.shapes.get(name, ()) for name in names]
        streams = all(len(shape) == 3 and shape[:2] == tuple(ids.shape) for shape in shapes)
        return begun == list(names) and streams and names[-1] in self.streams

    def behind(self, last: str) -> list[str]:
        """Modules that begin when ``last`` has ended, without those inside of them."""
        found: list[str] = []
        inside = ""
        for name, begins in self.events[self.events.index((last, False)) + 1 :]:
            if begins and not inside:
                found.append(name)
                inside = name
            elif name == inside and not begins:
                inside = ""
        return found


def _watch(body: nn.Module, ids: Tensor, blocks: set[str]) -> _Trace:
    """Run one text, and note which modules run."""
    trace = _Trace()

    def begin(name: str) -> Callable[..., None]:
        def note(_: nn.Module, arguments: Any, named: Any) -> None:
            trace.events.append((name, True))
            value = _stream(arguments, named)
            if name in blocks and isinstance(value, Tensor):
                trace.shapes[name] = tuple(value.shape)

        return note

    def end(name: str) -> Callable[..., None]:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            trace.events.append((name, False))
            value = output[0] if isinstance(output, (tuple, list)) else output
            if name in blocks and isinstance(value, Tensor):
                trace.streams[name] = value

        return note

    with contextlib.ExitStack() as stack:
        for name, module in body.named_modules():
            if name:
                before = module.register_forward_pre_hook(begin(name), with_kwargs=True)
                stack.callback(before.remove)
                stack.callback(module.register_forward_hook(end(name)).remove)
        trace.hidden = body(input_ids=ids, use_cache=False)[0]
    return trace


def _stream(arguments: Any, named: Any) -> Any:
    """The residual stream among the arguments of a block."""
    return arguments[0] if arguments else named.get("hidden_states")


def _through(modules: Iterable[nn.Module], hidden: Tensor) -> Tensor:
    for module in modules:
        hidden = module(hidden)
    return hidden


def _named(modules: Mapping[str, nn.Module]) -> str:
    """Classes and places of modules, the same whether weights are packed or not."""
    kinds = {
        name: "Linear" if isinstance(module, PackedLinear) else type(module).__name__
        for name, module in modules.items()
    }
    return " + ".join(f"{kind} ({name})" for name, kind in kinds.items()) or "none"


def _numbers(wanted: str | Sequence[int], depth: int) -> list[int]:
    """The hidden states that are meant.

    Raises:
        PermanentFailure: the model has fewer.
    """
    if wanted == ALL:
        return list(range(depth))
    numbers = [int(number) for number in wanted]
    beyond = [number for number in numbers if number >= depth]
    if beyond:
        raise PermanentFailure(
            f"layers: there is no {beyond[0]}: this model has {depth} blocks, so there are 0 (the "
            f"embeddings) to {depth - 1}, and {depth} is the model itself, which is always scored; "
            "correct layers: of the entry, or give all"
        )
    return numbers


def _refuse(why: str) -> NoReturn:
    raise PermanentFailure(f"layers: {why}; remove layers: from the entry")
