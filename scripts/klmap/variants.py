"""Texts that follow from another text set with prompts: the same responses, other prompts.

Takase et al. 2026 compare what models say after a prompt and after an edit of it; which edits there
are is klmap's own (:mod:`klmap.pairs`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from klmap import pairs
from klmap.config_prompts import Edit
from klmap.errors import InputError
from klmap.files import atomic, read_json, sha256_of, write_json
from klmap.log import logger
from klmap.pairs import Form
from klmap.texts import read_texts

_CONTENT = ("prompt", "format", "prefix", "suffix")
"""Keys of an edit that change the prompt itself."""


def build(
    texts: Path,
    manifest: Path,
    edits: Sequence[Edit],
    recipe: Mapping[str, Any],
    made: tuple[Path, Path],
) -> None:
    """Make the texts of a variant, then the manifest that vouches for them.

    Args:
        texts: texts.jsonl of the text set that it follows from.
        manifest: texts.json beside it.
        edits: single edits in the order in which they are made; without any, the texts are those
            of the base, byte for byte.
        recipe: of the variant, for its manifest.
        made: texts.jsonl and texts.json to write.

    Raises:
        InputError: a file is broken, the texts have no prompts, an edit names a wording that they
            do not have, or one would undo another.
    """
    _check(edits)
    base = read_texts(texts, manifest)
    content = read_json(manifest)
    form = Form.of(content)
    if form is None:
        raise InputError(
            f"{manifest}: the texts have no prompts, so there is nothing to edit; give the text "
            "set fields: or prompt_bytes:"
        )
    for edit in edits:
        if edit.template is not None:
            form = Form(edit.template, form.separator)
    conversations = []
    changed = 0
    with atomic(made[0]) as output, output.open("w", encoding="utf-8", newline="\n") as file:
        for line, text in zip(texts.read_bytes().splitlines(), base, strict=True):
            messages = text.messages or ()
            for edit in edits:
                place = f"{texts}:{text.index + 1}"
                messages = pairs.edited(messages, edit, text.prompts, place)
            record = json.loads(line) | form.written(messages, text.prompts)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            conversations.append(messages)
            changed += messages != text.messages or record["prompt"] != text.prompt
    about = {"sha256": sha256_of(made[0]), "recipe": dict(recipe)}
    write_json(made[1], {**content, **about, **form.manifest(conversations)})
    logger.info("%d texts, %d of them with another prompt", len(base), changed)


def _check(edits: Sequence[Edit]) -> None:
    """No edit undoes what one before it has done: their shifts could not add up."""
    seen: set[str] = set()
    for edit in edits:
        keys = set(edit.model_dump(exclude_none=True))
        undone = keys & seen & {"system", "template"}
        if edit.prompt is not None:
            undone |= seen & set(_CONTENT)
        if undone:
            key = sorted(undone)[0]
            raise InputError(
                f"edits: {edit.model_dump(exclude_none=True)} would undo {key}: of an edit before "
                "it; put an edit with prompt: first in of:, and have one system: and one "
                "template: at most"
            )
        seen |= keys
