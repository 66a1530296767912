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
from klmap.config_prompts import PMI, Edit, undone
from klmap.errors import InputError
from klmap.files import atomic, read_json, sha256_of, write_json
from klmap.log import logger
from klmap.pairs import Form, Messages
from klmap.texts import read_texts


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
            of the base, byte for byte, and the manifest says that their map is of PMI.
        recipe: of the variant, for its manifest.
        made: texts.jsonl and texts.json to write.

    Raises:
        InputError: a file is broken, the texts have no prompts, an edit names a wording that they
            do not have, one would undo another, or no text is changed by any.
    """
    reason = undone(edits)
    if reason:
        raise InputError(f"edits: {reason}")
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
            changed += _seen(record["prompt"], messages) != _seen(text.prompt, text.messages)
        if edits and not changed:
            given = [edit.model_dump(exclude_none=True) for edit in edits]
            raise InputError(
                f"{texts}: the edits {given} leave every prompt as it is, so there is nothing to "
                "compare; remove the edit, or give it something to change"
            )
    about: dict[str, Any] = {"sha256": sha256_of(made[0]), "recipe": dict(recipe)}
    if not edits:
        about["vector"] = PMI
    write_json(made[1], {**content, **about, **form.manifest(conversations)})
    logger.info("%d texts, %d of them with another prompt", len(base), changed)


def _seen(prompt: str | None, messages: Messages | None) -> str | Messages | None:
    """What a model reads of a prompt: the characters, or the messages that its template renders."""
    return messages if prompt is None else prompt
