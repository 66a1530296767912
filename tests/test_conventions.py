"""Conventions of scoring: what is refused, what makes no difference, and what shift is expected."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from klmap import configfile, conventions, models_table, store_score
from klmap.conventions import Difference, Scored
from klmap.errors import ConfigError, InputError
from tests.mapfiles import Folder

PUBLISHED = {"dtype": "float16", "prefix": "default", "overlength": "truncate"}


def theirs(name: str = "theirs") -> Scored:
    return Scored(name, "lab", dict(PUBLISHED))


def ours(**changes: object) -> Scored:
    convention = {**PUBLISHED, **{k: v for k, v in changes.items() if k in PUBLISHED}}
    facts = {k: v for k, v in changes.items() if k not in PUBLISHED}
    return Scored("ours", "", convention, **facts)  # type: ignore[arg-type]


def of(model: Scored, mean_bytes: float = 1000.0) -> list[Difference]:
    return conventions.differences([theirs(), model], mean_bytes)


def test_models_scored_alike_differ_in_nothing() -> None:
    assert of(ours()) == []


def test_without_a_release_nothing_is_compared() -> None:
    assert conventions.differences([ours(), ours(prefix="bos")], 1000.0) == []


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"dtype": "bfloat16"}, "dtype"), ({"prefix": "bos"}, "prefix"),
     ({"overlength": "window", "overlong": (-3.0, 2.0)}, "overlength")],
)  # fmt: skip
def test_each_difference_is_refused_until_it_is_allowed_by_name(
    changes: dict[str, object], key: str
) -> None:
    found = of(ours(**changes))
    assert [item.convention for item in found] == [key]
    with pytest.raises(InputError, match=rf"ours: {key} \w+, lab has {PUBLISHED[key]}") as error:
        conventions.refuse(found, [])
    assert f"published: {{lab: {{allow: [{key}]}}}}" in str(error.value)
    conventions.refuse(found, [key])
    others = [name for name in conventions.KEYS if name != key]
    with pytest.raises(InputError):
        conventions.refuse(found, others)


def test_what_made_no_difference_for_a_model_is_none() -> None:
    assert of(ours(overlength="window")) == [], "no text is longer than its context"
    lab = Scored("theirs", "lab", {**PUBLISHED, "prefix": "bos"})
    known = ours(adds_bos=True)
    assert conventions.differences([lab, known], 1000.0) == [], "its tokenizer adds one by itself"
    assert conventions.differences([lab, ours(adds_bos=False)], 1000.0)


def test_two_releases_are_compared_with_each_other() -> None:
    other = Scored("b", "other", {**PUBLISHED, "dtype": "float32"})
    found = conventions.differences([theirs("a"), other], 1000.0)
    assert [(item.model, item.release, item.expected) for item in found] == [
        ("b", "lab", "float16"),
        ("a", "other", "float32"),
    ]


def test_the_shift_of_a_first_token_follows_the_vocabulary() -> None:
    (found,) = of(ours(prefix="bos", vocabulary=50_000))
    size = math.log(50_000)
    assert found.shift == pytest.approx(-0.84 * size)
    assert found.kl == pytest.approx((0.27 * size) ** 2 / (2 * 1000 * math.log(2)))


def test_the_shift_of_another_number_format_is_the_noise_of_the_score() -> None:
    (found,) = of(ours(dtype="bfloat16", noise=0.5))
    assert found.shift == 0.0
    assert found.kl == pytest.approx(0.25 / (2 * 1000 * math.log(2)))
    (unknown,) = of(ours(dtype="bfloat16"))
    assert math.isnan(unknown.kl)


def test_the_shift_of_long_texts_is_what_lies_beyond_the_context() -> None:
    score = store_score.Score(
        "m", "", "", "", {},
        loglik=np.array([-100.0, -300.0]),
        n_tokens=np.array([40, 120], np.int32),
        n_scored=np.array([40, 120], np.int32),
        truncated=np.array([False, False]),
        attributes={**PUBLISHED, "overlength": "window", "context": 100},
    )  # fmt: skip
    found = conventions.scored(score, None, {"vocabulary": 10})
    assert found.overlong is not None
    mean, deviation = found.overlong
    assert mean == pytest.approx((0 + 20 * -2.5) / 2)
    assert deviation == pytest.approx(25.0)
    (difference,) = conventions.differences([theirs(), found], 1000.0)
    assert difference.shift == pytest.approx(-25.0)


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = of(ours(prefix="bos", vocabulary=100, dtype="float32"))
    path = tmp_path / "conventions.tsv"
    conventions.write_differences(path, found)
    again = conventions.read_differences(path)
    assert [(a.model, a.convention, a.basis) for a in again] == [
        (a.model, a.convention, a.basis) for a in found
    ]
    assert math.isnan(again[0].kl)
    assert again[1].kl == pytest.approx(found[1].kl, rel=1e-5)


def test_sentences_name_the_shift_or_that_it_is_unknown() -> None:
    first, second = conventions.sentences(of(ours(prefix="bos", vocabulary=100, dtype="float32")))
    assert first == (
        "ours was scored with dtype float32, lab with float16: by how much that moves them is "
        "unknown."
    )
    assert second.startswith("ours was scored with prefix bos, lab with default: expected to move")


def test_a_shift_that_nobody_sees_is_no_list_of_zeros() -> None:
    (said,) = conventions.sentences(of(ours(dtype="float32", noise=1e-4)))
    assert said.endswith("expected to move the model by a KL below 0.0001 bits per byte.")


def test_a_matrix_of_both_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "results" / "t")
    folder.add("theirs", attributes={**PUBLISHED, "imported": "lab", "card": "{}"})
    folder.add("ours", attributes={**PUBLISHED, "dtype": "bfloat16"})
    with pytest.raises(InputError, match="dtype bfloat16, lab has float16"):
        folder.collect()
    assert not (folder.root / "collected.h5").exists()
    assert len(folder.collect(allowed=["dtype"]).models) == 2


def test_the_card_of_an_imported_score_is_its_own(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "results" / "t")
    card = '{"parameters": 7000000000, "base_model": ["a/b"], "created_at": "2024-01-02"}'
    folder.add("theirs", attributes={"imported": "lab", "card": card}, card={"parameters": 1})
    (model,) = folder.collect().models
    assert (model.parameters, model.base_model) == (7_000_000_000, ("a/b",))


CONFIG = """
texts: {{pile: {{source: file, path: t.jsonl}}}}
published: {{lab: {{texts: pile, loglik: raw.pkl{release}}}}}
models: [a/b, {{id: c/d{model}}}]
scoring: {{{scoring}}}
"""


@pytest.mark.parametrize(
    ("scoring", "model", "release", "words"),
    [
        ("dtype: float16, overlength: truncate", "", "", ""),
        ("overlength: truncate", "", "", "a--b by dtype: auto and 1 more"),
        ("overlength: truncate", "", ", allow: [dtype]", ""),
        ("dtype: float16", "", "", "allow: [overlength]"),
        ("dtype: float16, overlength: truncate", ", prefix: bos", "", "c--d+bos by prefix: bos"),
        ("dtype: float16, overlength: truncate", ", prefix: bos", ", allow: [prefix]", ""),
        ("dtype: float16", "", ", overlength: window", ""),
    ],
)
def test_a_difference_is_told_before_anything_is_scored(
    tmp_path: Path, scoring: str, model: str, release: str, words: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(scoring=scoring, model=model, release=release))
    if not words:
        configfile.load(path)
        return
    with pytest.raises(ConfigError) as error:
        configfile.load(path)
    assert "config.yaml: published.lab: would be compared" in str(error.value)
    assert words in str(error.value)


def test_the_tokens_of_an_imported_score_are_unknown(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "results" / "t")
    made = folder.add("theirs", attributes={"imported": "lab", "card": "{}"})
    none = np.zeros(len(folder.lengths), np.int32)
    folder.write(made, n_tokens=none, n_scored=none)
    (model,) = folder.collect().models
    assert (model.tokens, model.truncated) == (None, None)
    models_table.write_models(tmp_path / "models.tsv", [model])
    assert models_table.read_models(tmp_path / "models.tsv")[0].tokens is None
