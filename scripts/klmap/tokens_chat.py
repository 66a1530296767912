"""Prompts in the form that a model was trained on: its own chat template.

The template is part of the tokenizer's files. It is rendered by transformers, in its sandbox, as
``apply_chat_template`` does; what the template writes is the prompt, and the response follows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from klmap.errors import PermanentFailure
from klmap.files import read_json
from klmap.repository import CHAT_TEMPLATE
from klmap.tokens import TextTokenizer

TODAY = datetime(2024, 7, 26)
"""The day that templates are told when they ask for today (own): a score must not depend on the day
of the job. It is the day that the template of Llama 3.1 takes where there is no clock."""


def read_template(folder: Path) -> str:
    """The chat template of a model; the default one where it has several.

    Args:
        folder: where the tokenizer's files are.

    Raises:
        PermanentFailure: the model has none.
    """
    path = folder / CHAT_TEMPLATE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = _settings(folder).get("chat_template")
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
    if isinstance(found, str):
        return found
    raise PermanentFailure(
        f"{folder}: the model has no chat template, so template: model cannot be done; set "
        "template: none, or leave this text set out of texts: of the model. If its repository has "
        f"{CHAT_TEMPLATE}, its card was made by an older klmap: remove card.json beside the "
        "weights and run again"
    )


def render(
    template: str,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    special: Mapping[str, str],
) -> list[str]:
    """What a template makes of conversations, up to where the model is to answer.

    Args:
        template: of the model, in Jinja.
        conversations: N lists of messages, each with ``role`` and ``content``.
        special: special tokens by name, such as ``bos_token``.

    Returns:
        N prompts. What they begin with is up to the template, a BOS token included.

    Raises:
        PermanentFailure: the template is broken or refuses a conversation; the message has its own
            words and names the first such text.
    """
    from transformers.utils import chat_template_utils  # imports Jinja, which few jobs need

    try:
        compiled = chat_template_utils._compile_jinja_template(template)
    except Exception as error:
        raise PermanentFailure(f"the chat template cannot be read: {_words(error)}") from error
    # transformers gives templates the clock of the machine and lets nobody set it. It keeps what
    # it has compiled, so this is the environment that it renders with below.
    compiled.environment.globals["strftime_now"] = TODAY.strftime
    prompts = []
    for number, messages in enumerate(conversations):
        chat = [dict(message) for message in messages]
        try:
            rendered, _ = chat_template_utils.render_jinja_template(
                [chat], chat_template=template, add_generation_prompt=True, **special
            )
        except Exception as error:
            roles = ", ".join(message["role"] for message in messages)
            raise PermanentFailure(
                f"the chat template refuses the messages of text {number} ({roles}): "
                f"{_words(error)}. Give prompts that it takes, set template: none, or leave this "
                "text set out of texts: of the model"
            ) from error
        prompts.append(str(rendered[0]))
    return prompts


def special_tokens(folder: Path, tokenizer: TextTokenizer) -> dict[str, str]:
    """Strings of the special tokens, by the names under which templates know them.

    Args:
        folder: where the tokenizer's files are.
        tokenizer: read from it; it knows BOS and EOS that only config.json names.
    """
    named = {**_optional(folder / "special_tokens_map.json"), **_settings(folder)}
    found = {}
    for key, value in named.items():
        token = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(token, str):
            found[key] = token
    for key, number in (("bos_token", tokenizer.bos_id), ("eos_token", tokenizer.eos_id)):
        if key not in named and number is not None:
            found[key] = tokenizer.engine.decode([[number]])[0]
    return found


def _settings(folder: Path) -> dict[str, Any]:
    return _optional(folder / "tokenizer_config.json")


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _words(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
