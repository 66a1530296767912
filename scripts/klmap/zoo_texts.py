"""What the demo zoo learns from: its corpus and its two tokenizers."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from klmap import environment
from klmap.errors import InputError
from klmap.files import atomic, read_json, write_json
from klmap.log import logger

CONTEXT = 512
"""Tokens a model of the zoo sees at once."""

VOCABULARY = 1536
"""Entries of each tokenizer, the 256 bytes and special tokens included."""

SAMPLE_BYTES = 150_000
"""Text of each domain that the tokenizers learn from, so that none is served better."""

_DOCUMENT_BYTES = 10_000
# GPT-2's borders between words, runs of white space kept whole.
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_END = "<|endoftext|>"
_SPECIAL = ("<unk>", "<s>", "</s>")


def write_corpus(output: Path) -> None:
    """Write the training half of the environment's texts, one .jsonl per domain.

    Args:
        output: the folder to write.
    """
    texts: dict[str, list[dict[str, str]]] = {}
    for document in environment.documents("train"):
        record = {"text": document.text, "origin": document.origin}
        texts.setdefault(document.domain, []).append(record)
    with atomic(output) as folder:
        folder.mkdir()
        for domain, records in texts.items():
            lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
            (folder / f"{domain}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        sizes = {
            domain: sum(len(record["text"].encode()) for record in records)
            for domain, records in texts.items()
        }
        write_json(folder / "corpus.json", {"bytes": sizes, "versions": environment.versions()})
    logger.info("%s bytes in %d domains", f"{sum(sizes.values()):,}", len(sizes))


def read_corpus(folder: Path) -> dict[str, list[str]]:
    """The documents of every domain, domains in alphabetical order.

    Raises:
        InputError: the folder holds no corpus.
    """
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise InputError(f"{folder}: no training texts; make them with zoo_corpus.py")
    return {
        path.stem: [json.loads(line)["text"] for line in path.read_bytes().splitlines()]
        for path in paths
    }


def write_tokenizers(corpus: Path, output: Path) -> None:
    """Train both tokenizers and write one Hugging Face folder for each.

    ``bytelevel`` is byte-level BPE as in GPT-2, without a beginning-of-sequence token;
    ``sentencepiece`` is BPE as in Llama: spaces become a visible character, bytes stand in for
    unknown characters, and a template puts a beginning-of-sequence token in front.

    Args:
        corpus: the folder of the training texts.
        output: the folder to write; ``bytelevel`` and ``sentencepiece`` inside.
    """
    sample = _sample(read_corpus(corpus))
    with atomic(output) as folder:
        _write(
            folder / "bytelevel",
            _byte_level(sample),
            {"bos_token": _END, "eos_token": _END, "unk_token": _END, "add_bos_token": False},
        )
        unknown, first, last = _SPECIAL
        _write(
            folder / "sentencepiece",
            _sentencepiece(sample),
            {"bos_token": first, "eos_token": last, "unk_token": unknown, "add_bos_token": True},
        )


def separator(tokenizer: Path) -> int:
    """The id of the token that stands before each passage in training."""
    name = read_json(tokenizer / "tokenizer_config.json")["bos_token"]
    number = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).token_to_id(name)
    if number is None:
        raise InputError(
            f"{tokenizer}: {name} is not in the vocabulary; make it with zoo_tokenizer.py"
        )
    return number


def _sample(documents: dict[str, list[str]]) -> list[str]:
    """The same amount of text of every domain, from as many documents as that allows."""
    sample = []
    for texts in documents.values():
        left = SAMPLE_BYTES
        for text in texts:
            part = text[: min(_DOCUMENT_BYTES, left)]
            sample.append(part)
            left -= len(part)
            if left <= 0:
                break
    return sample


def _byte_level(sample: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def _sentencepiece(sample: list[str]) -> Tokenizer:
    # The same borders between words as in the byte-level tokenizer.
    pieces = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
        ]
    )
    unknown, first, _ = _SPECIAL
    learned = Tokenizer(models.BPE(unk_token=unknown))
    learned.pre_tokenizer = pieces
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 256,
        special_tokens=list(_SPECIAL),
        limit_alphabet=160,
        show_progress=False,
    )
    learned.train_from_iterator(sample, trainer)
    model = json.loads(learned.to_str())["model"]
    ranked = sorted(model["vocab"], key=model["vocab"].__getitem__)
    count = len(_SPECIAL)
    entries = ranked[:count] + [f"<0x{byte:02X}>" for byte in range(256)] + ranked[count:]
    tokenizer = Tokenizer(
        models.BPE(
            {entry: number for number, entry in enumerate(entries)},
            [tuple(pair) for pair in model["merges"]],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A",
        pair=f"{first} $A {first} $B",
        special_tokens=[(first, tokenizer.token_to_id(first))],
    )
    return tokenizer


def _write(folder: Path, tokenizer: Tokenizer, settings: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    common = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", common | settings)
