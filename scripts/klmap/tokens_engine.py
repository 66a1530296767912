"""The libraries that turn text into token ids, behind one interface without special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tokenizers import AddedToken, Tokenizer


class Engine(Protocol):
    """What is needed of a tokenizer, whichever library it comes from."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, without special tokens."""

    def encode_with_specials(self, text: str) -> list[int]:
        """Token ids of one text, with the special tokens that are added by themselves."""

    def decode(self, sequences: Sequence[list[int]]) -> list[str]:
        """The texts that token ids stand for."""

    def id_of(self, token: str) -> int | None:
        """Id of a token; None if there is none."""


class RustEngine:
    """``tokenizer.json``, read by the library it was written for.

    Args:
        folder: where it is.
        added: ``added_tokens_decoder`` of tokenizer_config.json: tokens to add where missing.
        prefix_space: whether a byte-level pre-tokenizer puts a space in front of a text; None
            leaves that to the file.
    """

    def __init__(
        self, folder: Path, added: Mapping[str, Mapping[str, Any]], prefix_space: bool | None
    ) -> None:
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        self._tokenizer = Tokenizer.from_str(_with_prefix_space(text, prefix_space))
        # Both may be stored in the file, and would cut or lengthen the texts.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        known = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        for _, entry in sorted(added.items(), key=lambda item: int(item[0])):
            if entry["content"] not in known:
                self._tokenizer.add_tokens([AddedToken(**entry)])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text in one call, without special tokens."""
        batch = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def encode_with_specials(self, text: str) -> list[int]:
        """Token ids of one text, with the special tokens that are added by themselves."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, sequences: Sequence[list[int]]) -> list[str]:
        """The texts that token ids stand for, special tokens included."""
        return list(self._tokenizer.decode_batch(list(sequences), skip_special_tokens=False))

    def id_of(self, token: str) -> int | None:
        """Id of a token; None if there is none."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found


class TransformersEngine:
    """Tokenizers without ``tokenizer.json``: transformers converts or interprets their files.

    Args:
        folder: where they are.
        remote_code: whether code in the folder is run, where the tokenizer is such code.
    """

    def __init__(self, folder: Path, remote_code: bool = False) -> None:
        from transformers import AutoTokenizer  # a second of imports that few models need

        self._tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=remote_code, local_files_only=True
        )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text in one call, without special tokens."""
        batch = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return [list(ids) for ids in batch["input_ids"]]

    def encode_with_specials(self, text: str) -> list[int]:
        """Token ids of one text, with the special tokens that are added by themselves."""
        return list(self._tokenizer(text)["input_ids"])

    def decode(self, sequences: Sequence[list[int]]) -> list[str]:
        """The texts that token ids stand for, special tokens included."""
        return [
            str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))
            for ids in sequences
        ]

    def id_of(self, token: str) -> int | None:
        """Id of a token; None if there is none."""
        found = self._tokenizer.get_vocab().get(token)
        return None if found is None else int(found)


def _with_prefix_space(text: str, wanted: bool | None) -> str:
    """``tokenizer.json`` with another ``add_prefix_space`` in a byte-level pre-tokenizer."""
    if wanted is None or '"ByteLevel"' not in text:
        return text
    content = json.loads(text)
    before = content.get("pre_tokenizer") or {}
    if before.get("type") != "ByteLevel" or before.get("add_prefix_space") is wanted:
        return text
    before["add_prefix_space"] = wanted
    return json.dumps(content)
