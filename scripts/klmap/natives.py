"""What the pinned transformers loads as a causal language model by itself.

Read from a table that ``make schema`` writes, because importing transformers takes seconds and is
left to the scorer.
"""

from __future__ import annotations

from pathlib import Path

from klmap.files import read_json

_TABLE = read_json(Path(__file__).with_name("natives.json"))

VERSION: str = _TABLE["transformers"]
"""The version of transformers that the table describes."""


def causal_class(model_type: str) -> str | None:
    """The class that AutoModelForCausalLM takes for a ``model_type`` of config.json.

    Encoders (``bert``) and encoder-decoders (``bart``) are in the table too: transformers has
    decoder classes for them. Whether a repository holds such a decoder, its ``architectures``
    tell.

    Returns:
        The name of the class; None where transformers has none and the code of a repository would
        be needed, or where the model is of another kind altogether.
    """
    name = _TABLE["causal"].get(model_type)
    return None if name is None else str(name)
