"""Prompts and their responses: conversations, how they are rendered, cut and edited.

A model is scored on a response given what stands before it (Takase et al. 2026, section 3). What
stands before it is a conversation: a plain prompt is one message of the user. The paper edits
prompts by a few fixed phrases; which edits there are here, and how they are made, is klmap's own,
and so are ``cut`` and the rule of ``rendered``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from klmap.config_prompts import Edit, Template
from klmap.errors import InputError

USER = "user"
ASSISTANT = "assistant"
SYSTEM = "system"

_ROLES = {name: name for name in (SYSTEM, USER, ASSISTANT)} | {"human": USER, "gpt": ASSISTANT}
"""The roles of messages by the names that records give them."""

_KEYS = (("role", "content"), ("from", "value"))
"""What records call the role and the content of a message."""

Message = dict[str, str]
"""``role`` (system, user or assistant) and ``content``."""

Messages = tuple[Message, ...]
"""What stands before a response, the oldest message first."""


class Unusable(InputError):
    """A record of the right form that has nothing to score; a dataset of the Hub goes on without.

    Nobody can mend the rows there, where a file of one's own can be mended.
    """


@dataclass(frozen=True)
class Form:
    """How prompts of a text set look to a model.

    Attributes:
        template: ``none`` for plain text, ``model`` for the chat template of each model.
        separator: what stands behind each message of plain text.
    """

    template: Template
    separator: str

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Form | None:
        """The form that a manifest names; None for texts without prompts."""
        if "template" not in manifest:
            return None
        return cls(manifest["template"], manifest["separator"])

    def prompt(self, messages: Messages) -> str | None:
        """The characters in front of a response; None where only the model's template knows."""
        return rendered(messages, self.separator) if self.template == "none" else None

    def written(self, messages: Messages, prompts: Mapping[str, str]) -> dict[str, Any]:
        """What texts.jsonl says of a text beside its response."""
        found: dict[str, Any] = {"prompt": self.prompt(messages), "messages": list(messages)}
        return {**found, "prompts": dict(prompts)} if prompts else found

    def manifest(self, conversations: Iterable[Messages]) -> dict[str, Any]:
        """What the manifest of a text set says of its prompts."""
        sizes = [self._bytes(messages) for messages in conversations]
        return {
            "mean_prompt_bytes": sum(sizes) / len(sizes),
            "template": self.template,
            "separator": self.separator,
        }

    def _bytes(self, messages: Messages) -> int:
        """UTF-8 bytes of a prompt; of all contents where the model's template renders them."""
        prompt = self.prompt(messages)
        text = "".join(each["content"] for each in messages) if prompt is None else prompt
        return len(text.encode())


def rendered(messages: Messages, separator: str) -> str:
    """The plain text of a conversation: each content that is not empty, and a separator behind it.

    So the separator stands between messages and before the response; a prompt without a character
    gives the empty text, and the response is scored as in a set without prompts. Where the
    separator is empty, as where running text is cut, a line break stands behind a message of the
    system that does not end with white space: it is no part of the text that follows. Roles do not
    show. Klmap's own.
    """
    return "".join(
        each["content"] + (separator or _behind(each)) for each in messages if each["content"]
    )


def _behind(message: Message) -> str:
    """What stands behind a message that is not empty where the separator is."""
    glued = message["role"] == SYSTEM and not message["content"][-1].isspace()
    return "\n" if glued else ""


def cut(text: str, most: int) -> tuple[str, str] | None:
    """Cut a text into a prompt and the response that continues it (klmap's own).

    The prompt is the longest beginning of at most ``most`` bytes that ends behind a word and in
    front of white space; where there is none, the longest that ends between code points. Both
    together are the text, character for character.

    Args:
        text: running text.
        most: upper end of the prompt, in UTF-8 bytes.

    Returns:
        The prompt and the response; None where no word would be left for the response.
    """
    data = text.encode()
    if len(data) <= most:
        return None
    end = most
    while data[end] & 0xC0 == 0x80:
        end -= 1
    longest = len(data[:end].decode())
    borders = (
        place
        for place in range(longest, 0, -1)
        if text[place].isspace() and not text[place - 1].isspace()
    )
    place = next(borders, longest)
    return (text[:place], text[place:]) if text[place:].strip() else None


def string(value: Any, name: str, place: str) -> str:
    """A value that has to be a text.

    Raises:
        Unusable: it is null.
        InputError: it is something else, or holds half a surrogate pair.
    """
    if value is None:
        raise Unusable(f"{place}: {name} is null, expected a string; remove the record")
    if not isinstance(value, str):
        raise InputError(f"{place}: {name} is {type(value).__name__}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{place}: {name} holds half a surrogate pair, which is no text") from None
    return value


def conversation(value: Any, name: str, place: str) -> tuple[Messages, str | None]:
    """Read a conversation of a record, whose last message is the response.

    Messages have ``role`` and ``content``, or ``from`` and ``value`` with the roles human, gpt and
    system. Other keys of theirs are passed over. A mapping of two lists, which is how some tables
    store messages, is read as well.

    Args:
        value: the messages.
        name: of their field.
        place: of the record, for messages.

    Returns:
        The messages before the response, and the response; None where the last message is no
        answer of the assistant.

    Raises:
        Unusable: it has no message, or null in it, or a role is another one.
        InputError: it is no conversation, or a content is no text.
    """
    found = [
        _message(each, f"{name}[{number}]", place)
        for number, each in enumerate(_listed(value, name, place))
    ]
    if not found:
        raise Unusable(f"{place}: {name} has no message; remove the record")
    *before, last = found
    return tuple(before), last["content"] if last["role"] == ASSISTANT else None


def _listed(value: Any, name: str, place: str) -> Sequence[Any]:
    if isinstance(value, Mapping):
        if all(column is None for column in value.values()):
            return []
        columns = [column for column in value.values() if isinstance(column, list)]
        if len(columns) == len(value) and len({len(column) for column in columns}) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    if not isinstance(value, list):
        raise InputError(
            f"{place}: {name} is {type(value).__name__}, expected a list of messages, each with "
            "role and content"
        )
    return value


def _message(value: Any, name: str, place: str) -> Message:
    if value is None:
        raise Unusable(f"{place}: {name} is null, expected a message; remove the record")
    known = value if isinstance(value, Mapping) else {}
    for role_key, content_key in _KEYS:
        if known.get(role_key) is None:
            continue
        role = known[role_key]
        if not isinstance(role, str) or role not in _ROLES:
            raise Unusable(
                f"{place}: {name}.{role_key} is {role!r}; known are {', '.join(_ROLES)}: remove "
                "the record, or keep a file of your own with the conversations of these alone"
            )
        content = string(known.get(content_key), f"{name}.{content_key}", place)
        return {"role": _ROLES[role], "content": content}
    if any(key in known for key, _ in _KEYS):
        raise Unusable(f"{place}: {name} has null as its role; remove the record")
    raise InputError(f"{place}: {name} is no message; expected role and content, or from and value")


def read(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Check what a line of texts.jsonl says of its prompt.

    Returns:
        ``prompt``, ``messages`` and ``prompts``; nothing for a text without a prompt.

    Raises:
        InputError: something is missing, or is not as klmap writes it.
    """
    if not {"prompt", "messages", "prompts"} & set(record):
        return {}
    if "messages" not in record:
        raise InputError(f"{place}: there is a prompt, but no messages; make the texts anew")
    listed, prompts = record["messages"], record.get("prompts", {})
    if not isinstance(listed, list) or not isinstance(prompts, dict):
        raise InputError(
            f"{place}: expected a list of messages and other prompts by name; make the texts anew"
        )
    messages = tuple(_message(each, f"messages[{n}]", place) for n, each in enumerate(listed))
    if list(messages) != listed:
        raise InputError(f"{place}: messages are not as klmap writes them; make the texts anew")
    prompt = record.get("prompt")
    return {
        "prompt": None if prompt is None else string(prompt, "prompt", place),
        "messages": messages,
        "prompts": {name: string(text, f"prompts.{name}", place) for name, text in prompts.items()},
    }


def edited(messages: Messages, edit: Edit, prompts: Mapping[str, str], place: str) -> Messages:
    """Make one single edit of a conversation (klmap's own).

    The prompt is the last message of the user, one without a character where there is none. It is
    replaced by another wording first, then put into ``format``, then between prefix and suffix; a
    message of the system goes in front, in place of those that are there. The template is no part
    of a conversation: see ``Form``.

    Args:
        messages: the conversation.
        edit: an edit without ``of``.
        prompts: the other wordings of the prompt, by name.
        place: of the text, for messages.

    Raises:
        InputError: the text has no such wording.
    """
    result = list(messages)
    if (edit.prompt, edit.format, edit.prefix, edit.suffix) != (None,) * 4:
        users = [number for number, each in enumerate(result) if each["role"] == USER]
        if not users:
            result.append({"role": USER, "content": ""})
        number = users[-1] if users else len(result) - 1
        content = result[number]["content"]
        if edit.prompt is not None:
            content = _wording(edit.prompt, prompts, place)
        if edit.format is not None:
            content = edit.format.replace("{prompt}", content)
        content = (edit.prefix or "") + content + (edit.suffix or "")
        result[number] = {"role": USER, "content": content}
    if edit.system is not None:
        others = [each for each in result if each["role"] != SYSTEM]
        result = [{"role": SYSTEM, "content": edit.system}, *others]
    return tuple(result)


def _wording(name: str, prompts: Mapping[str, str], place: str) -> str:
    if name not in prompts:
        known = ", ".join(prompts) or "none"
        raise InputError(
            f"{place}: no wording {name!r} of the prompt (wordings here: {known}); name its field "
            f"in the text set, fields: {{..., {name}: FIELD}}, and make the texts anew"
        )
    return prompts[name]
