"""What the pinned transformers loads by itself, and as which class.

Read from a table that ``make schema`` writes, because importing transformers takes seconds and is
left to the scorer.
"""

from __future__ import annotations

from pathlib import Path

from klmap.files import read_json

_TABLE = read_json(Path(__file__).with_name("natives.json"))

VERSION: str = _TABLE["transformers"]
"""The version of transformers that the table describes."""

CAUSAL = "AutoModelForCausalLM"

_PARTS = {CAUSAL: "causal", "AutoModelForMaskedLM": "masked", "AutoModelForSeq2SeqLM": "seq2seq"}
"""Part of the table by the class of transformers that does the loading."""


def causal_class(model_type: str) -> str | None:
    """The class that AutoModelForCausalLM takes for a ``model_type`` of config.json.

    Encoders (``bert``) and encoder-decoders (``bart``) are in the table too: transformers has
    decoder classes for them. Whether a repository holds such a decoder, its ``architectures``
    tell.

    Returns:
        The name of the class; None where transformers has none and the code of a repository would
        be needed, or where the model is of another kind altogether.
    """
    return class_of(CAUSAL, model_type)


def class_of(loads: str, model_type: str) -> str | None:
    """The class that one of transformers' automatic classes takes for a ``model_type``.

    Args:
        loads: the automatic class; it has to be in the table (see :func:`covers`).
        model_type: of config.json.

    Returns:
        The name of the class; None where there is none.
    """
    name = _TABLE[_PARTS[loads]].get(model_type)
    return None if name is None else str(name)


def covers(loads: str) -> bool:
    """Whether the table says what an automatic class of transformers loads."""
    return loads in _PARTS
