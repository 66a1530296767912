"""Prefix policies, windows and the gates in front of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, normalizers

from klmap.errors import PermanentFailure
from klmap.tokens import Window, check_ids, encode, load_tokenizer, windows
from tests.builders import sample_texts, tiny_tokenizer

TEXTS = [text for text, _ in sample_texts(8)]


def encoded(folder: Path, texts: list[str] | None = None, **options: Any) -> Any:
    settings = {"prefix": "default", "overlength": "window", "limit": None, **options}
    return encode(load_tokenizer(folder), TEXTS if texts is None else texts, **settings)


def raw(folder: Path, text: str) -> list[int]:
    """Ids without special tokens, straight from the library."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


# What transformers 4.46 gives for the same files; True where a BOS stands in front.
BOS_TABLE = [
    # class, template has BOS, add_bos_token, BOS in front
    ("PreTrainedTokenizerFast", True, None, True),
    ("PreTrainedTokenizerFast", True, False, True),
    ("PreTrainedTokenizerFast", False, None, False),
    ("PreTrainedTokenizerFast", False, True, False),
    ("LlamaTokenizer", True, None, True),
    ("LlamaTokenizer", True, False, False),
    ("LlamaTokenizerFast", False, None, True),
    ("LlamaTokenizerFast", False, True, True),
    ("GemmaTokenizerFast", True, False, False),
    ("GemmaTokenizer", False, None, True),
    ("CohereTokenizerFast", False, True, True),
    ("GPTNeoXTokenizer", True, None, False),
    ("GPTNeoXTokenizerFast", True, True, True),
    ("GPTNeoXTokenizerFast", False, True, True),
    ("GPTNeoXTokenizerFast", False, None, False),
    ("Qwen2TokenizerFast", False, True, False),
    ("Qwen2TokenizerFast", True, False, True),
]


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@pytest.mark.parametrize(("name", "template", "add_bos", "expected"), BOS_TABLE)
def test_default_prefix_is_that_of_transformers_4(
    tmp_path: Path, kind: str, name: str, template: bool, add_bos: bool | None, expected: bool
) -> None:
    settings = {"tokenizer_class": name, "add_bos_token": add_bos}
    tiny_tokenizer(tmp_path, kind, template=template, settings=settings)
    found = encoded(tmp_path)
    bos = 0 if kind == "bytes" else 1
    assert found.bos_id == (bos if expected else -1)
    for text, sequence in zip(TEXTS, found.sequences, strict=True):
        assert sequence == [bos] * expected + raw(tmp_path, text)
    assert found.n_tokens == [len(raw(tmp_path, text)) for text in TEXTS]


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@pytest.mark.parametrize(("name", "template", "add_bos", "_"), BOS_TABLE)
def test_bos_prefix_is_always_exactly_one(
    tmp_path: Path, kind: str, name: str, template: bool, add_bos: bool | None, _: bool
) -> None:
    settings = {"tokenizer_class": name, "add_bos_token": add_bos, "add_eos_token": True}
    tiny_tokenizer(tmp_path, kind, template=template, settings=settings)
    found = encoded(tmp_path, prefix="bos")
    bos = 0 if kind == "bytes" else 1
    assert found.sequences == [[bos, *raw(tmp_path, text)] for text in TEXTS]
    assert found.prefix_source == "bos"


def test_class_comes_from_the_model_type_where_no_file_names_it(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path, "sentencepiece", template=False, settings={"tokenizer_class": None})
    assert encoded(tmp_path).bos_id == -1
    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')
    assert encoded(tmp_path).bos_id == 1


def test_appended_eos_is_scored_by_default_and_absent_under_bos(tmp_path: Path) -> None:
    settings = {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True}
    tiny_tokenizer(tmp_path, "sentencepiece", settings=settings)
    content = raw(tmp_path, TEXTS[0])
    assert encoded(tmp_path).sequences[0] == [1, *content, 2]
    assert encoded(tmp_path, prefix="bos").sequences[0] == [1, *content]


def test_bos_falls_back_to_eos_then_to_nothing(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path, "sentencepiece", template=False, settings={"bos_token": None})
    found = encoded(tmp_path, prefix="bos")
    assert (found.bos_id, found.prefix_source) == (2, "eos")
    tiny_tokenizer(
        tmp_path, "sentencepiece", template=False, settings={"bos_token": None, "eos_token": None}
    )
    found = encoded(tmp_path, prefix="bos")
    assert (found.bos_id, found.prefix_source) == (-1, "none")
    assert found.sequences[0] == raw(tmp_path, TEXTS[0])


def test_bos_is_found_in_the_model_configuration(tmp_path: Path) -> None:
    settings = {"bos_token": None, "eos_token": None}
    tiny_tokenizer(tmp_path, "bytes", settings=settings)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "bos_token_id": 0}')
    assert encoded(tmp_path, prefix="bos").bos_id == 0


def test_text_that_begins_with_the_bos_string_gets_no_second_one(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path, "sentencepiece")
    text = "<s>Begin here.</s> And again."
    content = raw(tmp_path, text)
    assert content[0] == 1
    assert 2 in content, "the string of a special token is that token, as the tokenizer has it"
    found = encoded(tmp_path, [text, TEXTS[0]], prefix="bos")
    assert found.sequences[0] == content
    assert found.n_tokens[0] == len(content) - 1
    assert encoded(tmp_path, [text]).sequences[0] == [1, *content], "as published"


def test_text_without_tokens_has_an_empty_sequence(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path, "bytes", template=True)
    edit(tmp_path, lambda tokenizer: setattr(tokenizer, "normalizer", normalizers.Strip()))
    found = encoded(tmp_path, ["   ", TEXTS[0]])
    assert found.sequences[0] == []
    assert found.n_tokens[0] == 0
    assert found.share_changed == 0.5


def edit(folder: Path, change: Any) -> None:
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    change(tokenizer)
    tokenizer.save(path)


def test_truncation_and_padding_stored_in_the_file_are_ignored(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path, "bytes")
    before = encoded(tmp_path).sequences
    edit(tmp_path, lambda tokenizer: tokenizer.enable_truncation(7))
    edit(tmp_path, lambda tokenizer: tokenizer.enable_padding(length=5000))
    assert encoded(tmp_path).sequences == before


def test_tokens_listed_only_in_the_configuration_are_added(tmp_path: Path) -> None:
    entry = {
        "content": "<extra>",
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
    tiny_tokenizer(tmp_path, "bytes", settings={"added_tokens_decoder": {"512": entry}})
    assert 512 in encoded(tmp_path, ["one <extra> two"]).sequences[0]


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    ("name", "stated", "expected"),
    [
        ("GPT2TokenizerFast", None, False),
        ("GPT2Tokenizer", True, True),
        ("GPTNeoXTokenizerFast", False, False),
        ("CodeGenTokenizer", True, True),
        ("PreTrainedTokenizerFast", None, None),
        ("Qwen2TokenizerFast", True, None),
        ("PreTrainedTokenizerFast", False, None),
    ],
)
def test_prefix_space_is_that_of_transformers_4(
    tmp_path: Path, stored: bool, name: str, stated: bool | None, expected: bool | None
) -> None:
    """None: tokenizer.json decides."""
    settings = {"tokenizer_class": name, "add_prefix_space": stated}
    tiny_tokenizer(tmp_path, "bytes", settings=settings)
    plain, spaced = raw(tmp_path, "the river"), raw(tmp_path, " the river")
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"]["add_prefix_space"] = stored
    path.write_text(json.dumps(content))
    wanted = stored if expected is None else expected
    assert encoded(tmp_path, ["the river"]).sequences[0] == (spaced if wanted else plain)


def test_lost_spaces_are_a_failure(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path, "sentencepiece")
    edit(
        tmp_path,
        lambda tokenizer: setattr(
            tokenizer,
            "decoder",
            decoders.Sequence(
                [decoders.Replace("▁", ""), decoders.ByteFallback(), decoders.Fuse()]
            ),
        ),
    )
    with pytest.raises(PermanentFailure, match="loses the spaces"):
        encoded(tmp_path)


def test_lossy_by_design_is_counted(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path, "bytes")
    edit(tmp_path, lambda tokenizer: setattr(tokenizer, "normalizer", normalizers.Lowercase()))
    assert encoded(tmp_path, ["Upper Case", "lower case"]).share_changed == 0.5


def test_broken_tokenizer_is_a_permanent_failure(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path, "bytes")
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "none"}}')
    with pytest.raises(PermanentFailure, match="tokenizer cannot be loaded"):
        encoded(tmp_path)


def test_tokenizer_without_tokenizer_json_is_read_by_transformers(tmp_path: Path) -> None:
    fast = tiny_tokenizer(tmp_path / "fast", "bytes")
    model = json.loads((fast / "tokenizer.json").read_text())["model"]
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) for pair in model["merges"]]
    (slow / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (slow / "config.json").write_text('{"model_type": "gpt2", "bos_token_id": 0}')
    (slow / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>"}'
    )
    assert encoded(slow).sequences == encoded(fast).sequences
    assert encoded(slow, prefix="bos").sequences == encoded(fast, prefix="bos").sequences


def test_ids_beyond_the_embedding_are_refused() -> None:
    check_ids([[0, 5], [], [9]], 10)
    with pytest.raises(PermanentFailure, match=r"text 2 has token id 9, the embedding has 9 rows"):
        check_ids([[0, 5], [], [9]], 9)


@pytest.mark.parametrize("overlength", ["window", "truncate", "fail"])
def test_overlength_policies(tmp_path: Path, overlength: str) -> None:
    settings = {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True}
    tiny_tokenizer(tmp_path, "sentencepiece", settings=settings)
    whole = encoded(tmp_path, TEXTS[:1]).sequences[0]
    for limit in (len(whole) - 1, len(whole), len(whole) + 1):
        options = {"overlength": overlength, "limit": limit}
        if limit >= len(whole):
            found = encoded(tmp_path, TEXTS[:1], **options)
            assert found.sequences[0] == whole
            assert found.truncated == [False]
        elif overlength == "fail":
            with pytest.raises(PermanentFailure, match=f"{len(whole)} tokens.*takes {limit}"):
                encoded(tmp_path, TEXTS[:1], **options)
        elif overlength == "window":
            found = encoded(tmp_path, TEXTS[:1], **options)
            assert found.sequences[0] == whole
            assert found.truncated == [False]
        else:
            found = encoded(tmp_path, TEXTS[:1], **options)
            assert found.sequences[0] == [*whole[: limit - 1], 2], "the specials are kept"
            assert found.truncated == [True]
            assert found.n_tokens == [len(whole) - 2], "counts the text, not what was kept of it"


@pytest.mark.parametrize("limit", [2, 3, 7, 8, 9, 64])
def test_windows_score_every_token_but_the_first_once(limit: int) -> None:
    for length in range(70):
        cut = windows(length, limit)
        scored = [t for w in cut for t in range(w.first, w.stop)]
        assert scored == list(range(1, length))
        assert all(w.start < w.first and w.stop - w.start <= limit for w in cut)
        if length > limit:
            assert cut[-1].stop - cut[-1].start == limit, "the end has full context"


def test_windows_at_the_limit() -> None:
    assert windows(7, 8) == [Window(0, 7, 1)]
    assert windows(8, 8) == [Window(0, 8, 1)]
    assert windows(9, 8) == [Window(0, 8, 1), Window(1, 9, 8)]
    assert windows(20, 8) == [Window(0, 8, 1), Window(7, 15, 8), Window(12, 20, 15)]
    assert windows(5000, None) == [Window(0, 5000, 1)]
    assert windows(1, 8) == windows(0, 8) == []
