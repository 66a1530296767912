"""Code that a model's repository brings along: whether it is run, and how jobs are kept apart.

Nothing of it is run unless config.yaml says so and transformers has no class for the model. The
permission is given in one place, to one folder; whatever loads something from a folder asks here.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from klmap.cards import Card
from klmap.errors import PermanentFailure, UnsupportedHere
from klmap.files import read_json
from klmap.log import logger
from klmap.natives import CAUSAL
from klmap.repository import how_to_opt_in, model_code

_PERMITTED: set[Path] = set()
"""Folders whose code may be run in this process."""


@functools.cache
def isolate() -> None:
    """Give this process a folder of its own for the code that transformers copies and imports.

    By default all processes of a user share one, and there the code of every model would stand
    under the name of its folder, which is always ``weights``. To be called before transformers is
    imported; the folder goes when the process ends.
    """
    folder = tempfile.mkdtemp(prefix="klmap-code-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["HF_MODULES_CACHE"] = folder


def permit(folder: Path, card: Card, opted_in: bool, loads: str = CAUSAL) -> bool:
    """Decide whether the code in a folder of weights is run from here on.

    Args:
        folder: with the files that the card names.
        card: of the model, for its commit.
        opted_in: whether config.yaml has ``remote_code: true`` for it.
        loads: the class of transformers that would load it.

    Returns:
        True if the model cannot do without its code, and has leave to run it.

    Raises:
        PermanentFailure: it cannot do without and has no leave, or its code is elsewhere.
        UnsupportedHere: its weights are stored quantised besides.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # late: after isolate

    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind in CONFIG_MAPPING:
        if opted_in:
            logger.info(
                "remote_code: true has no effect: transformers has a class for the model_type %s, "
                "and no code of the repository is run",
                kind,
            )
        return False
    code = model_code(config, loads)
    if code is None and config.get("auto_map"):
        raise PermanentFailure(
            f"{folder}: config.json describes no model that transformers knows (model_type "
            f"{kind!r}), and names no {loads} in its auto_map; give the "
            "repository of such a language model"
        )
    if code is None:
        return False  # reading the configuration will say what is wrong
    if not opted_in:
        raise PermanentFailure(
            f"{folder}: config.json describes no model that transformers knows (model_type "
            f"{kind!r}), and code of a repository ({code}) is not run without being asked to; "
            f"{how_to_opt_in(card)}"
        )
    for reference in _references(folder, config, loads):
        if "--" in reference:
            raise PermanentFailure(
                f"{folder}: the code {reference} is in another repository, where no commit of this "
                "one pins it; copy all files into a folder of your own, the code too, take what "
                "stands before -- out of auto_map, and give that folder"
            )
    if card.quantization:
        raise UnsupportedHere(
            f"{folder}: weights that are stored quantised ({card.quantization}) cannot be unpacked "
            f"for a class of the repository ({code}); give the same model with ordinary weights"
        )
    logger.warning("code of the repository is run: %s, commit %s", code, card.commit)
    _PERMITTED.add(folder)
    return True


def is_permitted(folder: Path) -> bool:
    """Whether ``permit`` has given leave to run the code in a folder."""
    return folder in _PERMITTED


def _references(folder: Path, config: dict[str, Any], loads: str) -> list[str]:
    """The classes of the repository that would be loaded: configuration, model, tokenizer."""
    found = [config["auto_map"].get(name) for name in ("AutoConfig", loads)]
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and not (folder / "tokenizer.json").is_file():
        classes = read_json(settings).get("auto_map")
        pair = classes.get("AutoTokenizer") if isinstance(classes, dict) else classes
        found += pair if isinstance(pair, list) else [pair]
    return [str(reference) for reference in found if reference]
