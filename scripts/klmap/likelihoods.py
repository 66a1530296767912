"""What can stand for the log-likelihood of a text: one kind for each file ``scorer_as_<kind>.py``.

Each file holds one class, and what has to be known of it before a model is loaded stands there as
plain values: those are read from the file without running it, so that configurations are read and
models looked up without torch. Kinds other than ``causal`` are klmap's own in this setting.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klmap.errors import InputError

CAUSAL = "causal"
"""The likelihood of a model that reads from left to right; what is meant where nothing is said."""

OF_TEXTS = (CAUSAL, "prefix", "seq2seq")
"""Kinds whose log-likelihood is the log-probability of a text, or of a response given its prompt,
by the chain rule. Distances of all others, such as pseudo-likelihoods, are no KL divergences."""

_FOLDER = Path(__file__).parent
_FILES = _FOLDER.glob("scorer_as_*.py")

NAMES = (CAUSAL, *sorted({path.stem.removeprefix("scorer_as_") for path in _FILES} - {CAUSAL}))
"""All kinds."""


@dataclass(frozen=True)
class Kind:
    """What the class of a kind says of itself before it is imported.

    Attributes:
        name: of the kind.
        class_name: of the class.
        loads: class of transformers that loads such a model, as ``AutoModelForMaskedLM``.
        means: what it scores, in words for messages: ``a masked language model``.
        heads: endings of the names under ``architectures`` in config.json that such a model has;
            empty where any will do.
        encoder_decoder: whether such a model is an encoder-decoder.
        needs_prompts: whether only responses to prompts can be scored.
        reads_layers: whether ``layers:`` works.
        own_specials: whether special tokens are the tokenizer's alone, so that ``prefix: bos`` has
            no meaning.
    """

    name: str
    class_name: str
    loads: str
    means: str
    heads: tuple[str, ...] = ()
    encoder_decoder: bool = False
    needs_prompts: bool = False
    reads_layers: bool = False
    own_specials: bool = False


def kind(name: str, folder: Path = _FOLDER) -> Kind:
    """What is known of a kind.

    Args:
        name: of the kind.
        folder: where ``scorer_as_<name>.py`` is.

    Raises:
        InputError: there is no such kind, or its file does not say what is needed.
    """
    path = folder / f"scorer_as_{name}.py"
    if not path.is_file():
        raise InputError(
            f"likelihood: {name} is not one of {', '.join(NAMES)}; a new kind is a class in "
            f"scripts/klmap/scorer_as_{name}.py (docs/extending.md)"
        )
    return _read(path)


@functools.cache
def _read(path: Path) -> Kind:
    """The one class in a file that says which class of transformers loads its models."""
    name = path.stem.removeprefix("scorer_as_")
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            values = {
                key: value
                for key, value in _literals(node).items()
                if key in Kind.__dataclass_fields__
            }
            if "loads" in values and "means" in values:
                found.append(Kind(**values, name=name, class_name=node.name))
    if len(found) != 1:
        raise InputError(
            f"{path}: {len(found)} classes have plain texts as loads and means, and one is needed "
            "(docs/extending.md)"
        )
    return found[0]


def _literals(node: ast.ClassDef) -> dict[str, Any]:
    """The plain values among the attributes of a class."""
    found = {}
    for statement in node.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            continue
        if isinstance(target, ast.Name):
            try:
                found[target.id] = ast.literal_eval(value)
            except ValueError:
                continue
    return found
