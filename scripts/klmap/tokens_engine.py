"""The libraries that turn text into token ids, behind one interface without special tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tokenizers import AddedToken, Tokenizer


@dataclass(frozen=True)
class Parted:
    """Prompts and responses tokenised together, and where the responses begin.

    Attributes:
        sequences: N lists of token ids, of each prompt with its response.
        first: N positions of the responses' first tokens; the length where one has no token.
        crossing: N flags, true where that token also holds characters of the prompt.
        rule: how the boundary was found: ``offsets`` or ``common-prefix``.
    """

    sequences: list[list[int]]
    first: list[int]
    crossing: list[bool]
    rule: str


class Engine(Protocol):
    """What is needed of a tokenizer, whichever library it comes from."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, without special tokens."""

    def encode_pairs(self, prompts: Sequence[str], responses: Sequence[str]) -> Parted:
        """Token ids of every prompt with its response, without special tokens."""

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

    def encode_pairs(self, prompts: Sequence[str], responses: Sequence[str]) -> Parted:
        """Token ids of every prompt with its response, without special tokens."""
        return part_by_offsets(self._tokenizer, prompts, responses)

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

    def encode_pairs(self, prompts: Sequence[str], responses: Sequence[str]) -> Parted:
        """Token ids of every prompt with its response, without special tokens."""
        if self._tokenizer.is_fast:
            return part_by_offsets(self._tokenizer.backend_tokenizer, prompts, responses)
        return part_by_common_prefix(self.encode, prompts, responses)

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


def part_by_offsets(
    tokenizer: Tokenizer, prompts: Sequence[str], responses: Sequence[str]
) -> Parted:
    """Tokenise pairs, and find the boundary by the characters that each token stands for.

    A response begins with the first token whose characters end behind the prompt (klmap's own
    rule). So a token that crosses the boundary is the response's as a whole, and so are all tokens
    of a character that takes several. A character that a normaliser composes of the last of the
    prompt and the first of the response counts as the prompt's, which is what the library says.

    Args:
        tokenizer: of the library; what it adds around a text is left out.
        prompts: N prompts.
        responses: N responses.
    """
    # A post-processor adds special tokens, and that of byte-level tokenizers takes the spaces off
    # the offsets, so that a token would seem to begin and end elsewhere.
    kept = tokenizer.post_processor
    tokenizer.post_processor = None
    try:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        whole = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        batch = tokenizer.encode_batch(whole, add_special_tokens=False)
    finally:
        tokenizer.post_processor = kept
    parted = Parted([], [], [], "offsets")
    for prompt, encoding in zip(prompts, batch, strict=True):
        spans = encoding.offsets
        ends = (number for number, (_, end) in enumerate(spans) if end > len(prompt))
        first = next(ends, len(spans)) if prompt else 0
        parted.sequences.append(encoding.ids)
        parted.first.append(first)
        parted.crossing.append(first < len(spans) and spans[first][0] < len(prompt))
    return parted


def part_by_common_prefix(
    encode: Callable[[Sequence[str]], list[list[int]]],
    prompts: Sequence[str],
    responses: Sequence[str],
) -> Parted:
    """Tokenise pairs with a tokenizer that does not say which characters a token stands for.

    A response begins where the tokens of the pair differ from those of the prompt alone (klmap's
    own rule). Where the prompt's last tokens are not kept, the first that replaces them crosses.

    Args:
        encode: gives the token ids of every text, without special tokens.
        prompts: N prompts.
        responses: N responses.
    """
    whole = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    parted = Parted(encode(whole), [], [], "common-prefix")
    for prompt, alone, both in zip(prompts, encode(prompts), parted.sequences, strict=True):
        least = min(len(alone), len(both))
        same = next((at for at in range(least) if alone[at] != both[at]), least)
        parted.first.append(same if prompt else 0)
        parted.crossing.append(bool(prompt) and same < min(len(alone), len(both)))
    return parted


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
