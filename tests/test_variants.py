"""Variants of a text set with prompts: the same responses, prompts edited in a given order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from klmap import texts, variants
from klmap.config_prompts import Edit
from klmap.config_texts import FileTexts
from klmap.errors import InputError
from klmap.pairs import edited
from klmap.texts import Text, read_texts
from tests.test_pairs import FIELDS, QUESTIONS, assistant, system, user
from tests.test_texts import write_lines

SCRIPT = Path(__file__).parents[1] / "scripts" / "variant.py"
CHAT = (system("Be brief."), user("2 + 2?"), assistant("4"), user("And 3 + 3?"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """texts.jsonl of a set with another wording, its manifest beside it."""
    path = write_lines(tmp_path / "mine.jsonl", QUESTIONS)
    fields = {**FIELDS, "english": "en"}
    recipe = FileTexts(source="file", path=str(path), fields=fields)
    texts.build(recipe, tmp_path / "texts.jsonl", tmp_path / "texts.json")
    return tmp_path / "texts.jsonl"


def build(base: Path, name: str, *edits: dict[str, Any], recipe: Any = None) -> Path:
    made = (base.parent / name / "texts.jsonl", base.parent / name / "texts.json")
    made[0].parent.mkdir(parents=True, exist_ok=True)
    found = [Edit(**edit) for edit in edits]
    variants.build(base, base.with_suffix(".json"), found, recipe or {}, made)
    return made[0]


def read(path: Path) -> list[Text]:
    return read_texts(path, path.with_suffix(".json"))


def manifest_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return found


@pytest.mark.parametrize(
    ("messages", "edit", "expected"),
    [
        ((user("Why?"),), {"prefix": "Say: "}, (user("Say: Why?"),)),
        ((user("Why?"),), {"suffix": " Hm?"}, (user("Why? Hm?"),)),
        ((user("Why?"),), {"format": "<{prompt}> {x}"}, (user("<Why?> {x}"),)),
        ((user("a {prompt} b"),), {"format": "<{prompt}>"}, (user("<a {prompt} b>"),)),
        ((user("Why?"),), {"prompt": "german"}, (user("Warum?"),)),
        ((user("Why?"),), {"system": "Hi."}, (system("Hi."), user("Why?"))),
        ((user(""),), {"prefix": "Go."}, (user("Go."),)),
        ((), {"suffix": "Go."}, (user("Go."),)),
        ((), {"prompt": "german"}, (user("Warum?"),)),
        ((system("Hi."),), {"prefix": "Go."}, (system("Hi."), user("Go."))),
        (CHAT, {"prefix": "Now: "}, (*CHAT[:3], user("Now: And 3 + 3?"))),
        (CHAT, {"system": "Be kind."}, (system("Be kind."), *CHAT[1:])),
        ((user("a"), system("b")), {"system": "c"}, (system("c"), user("a"))),
        ((user("a"), assistant("b")), {"suffix": "!"}, (user("a!"), assistant("b"))),
        (
            (user("Why?"),),
            {"prefix": "1", "suffix": "2", "format": "<{prompt}>", "prompt": "german"},
            (user("1<Warum?>2"),),
        ),
        ((user("Why?"),), {"template": "model"}, (user("Why?"),)),
    ],
)
def test_an_edit_changes_the_last_message_of_the_user_or_that_of_the_system(
    messages: Any, edit: dict[str, Any], expected: Any
) -> None:
    kept = json.dumps(messages)
    assert edited(messages, Edit(**edit), {"german": "Warum?"}, "here") == expected
    assert json.dumps(messages) == kept, "what was edited stays as it was"


def test_a_variant_has_the_same_responses(base: Path) -> None:
    recipe = {"source": "file", "edits": [{"system": "Be kind."}]}
    made = build(base, "kind", {"system": "Be kind."}, recipe=recipe)
    assert [
        (text.index, text.text, text.domain, text.n_bytes, text.prompts) for text in read(made)
    ] == [(text.index, text.text, text.domain, text.n_bytes, text.prompts) for text in read(base)]
    assert [text.prompt for text in read(made)] == [
        "Be kind.\nWas ist Öl?\n",
        "Be kind.\n",
        "Be kind.\nWhy?\n\n",
    ]
    before, after = manifest_of(base), manifest_of(made)
    assert after["recipe"] == recipe
    assert after["mean_prompt_bytes"] == pytest.approx(before["mean_prompt_bytes"] + 9)
    for key in ("n", "mean_bytes", "domains", "candidates", "separator", "template"):
        assert after[key] == before[key]
    origins = [json.loads(line)["origin"] for line in made.open(encoding="utf-8")]
    assert origins == [json.loads(line)["origin"] for line in base.open(encoding="utf-8")]


def test_a_message_of_the_system_is_not_glued_to_running_text(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.jsonl", [{"text": "one two three"}, {"text": "a b c d e"}])
    base = tmp_path / "texts.jsonl"
    recipe = FileTexts(source="file", path=str(path), prompt_bytes=4, min_bytes=0)
    texts.build(recipe, base, base.with_suffix(".json"))
    made = build(base, "kind", {"system": "Be kind."})
    assert [text.prompt for text in read(base)] == ["one", "a b"]
    assert [text.prompt for text in read(made)] == ["Be kind.\none", "Be kind.\na b"]
    assert manifest_of(made)["separator"] == ""


def test_without_edits_the_texts_are_a_copy_byte_for_byte(base: Path) -> None:
    made = build(base, "pmi", recipe=manifest_of(base)["recipe"])
    assert made.read_bytes() == base.read_bytes()
    assert manifest_of(made) == {**manifest_of(base), "vector": "pmi"}
    assert "vector" not in manifest_of(build(base, "polite", {"prefix": "Please: "}))


def test_a_composed_edit_is_its_parts_one_after_the_other(base: Path) -> None:
    parts: list[dict[str, Any]] = [
        {"prompt": "english"},
        {"prefix": "a"},
        {"format": "<{prompt}>", "system": "s"},
        {"prefix": "b", "suffix": "c"},
        {"template": "model"},
    ]
    whole = build(base, "whole", *parts)
    last = base
    for number, part in enumerate(parts):
        last = build(last, f"part{number}", part)
    assert whole.read_bytes() == last.read_bytes()
    assert manifest_of(whole) == manifest_of(last)
    assert [text.messages for text in read(whole)] == [
        (system("s"), user(f"b<a{row['en']}>c")) for row in QUESTIONS
    ]


def test_the_order_of_edits_counts(base: Path) -> None:
    one = build(base, "one", {"prefix": "a"}, {"prefix": "b"})
    other = build(base, "other", {"prefix": "b"}, {"prefix": "a"})
    assert read(one)[0].prompt == "baWas ist Öl?\n"
    assert read(other)[0].prompt == "abWas ist Öl?\n"


def test_the_template_can_be_taken_and_given_back(base: Path) -> None:
    made = build(base, "model", {"template": "model"})
    assert [text.prompt for text in read(made)] == [None, None, None]
    assert manifest_of(made)["template"] == "model"
    contents = [len(row["question"].encode()) for row in QUESTIONS]
    assert manifest_of(made)["mean_prompt_bytes"] == pytest.approx(sum(contents) / 3)
    assert build(made, "none", {"template": "none"}).read_bytes() == base.read_bytes()


def test_a_wording_that_texts_do_not_have_is_named_with_the_fix(base: Path) -> None:
    with pytest.raises(InputError) as caught:
        build(base, "french", {"prompt": "french"})
    assert str(caught.value).startswith(f"{base}:1: no wording 'french' of the prompt")
    assert "(wordings here: english); name its field" in str(caught.value)
    assert not list((base.parent / "french").iterdir())


@pytest.mark.parametrize(
    ("edits", "key"),
    [
        ([{"prefix": "a"}, {"prompt": "english"}], "prefix"),
        ([{"prompt": "english"}, {"prompt": "english"}], "prompt"),
        ([{"system": "a"}, {"suffix": "x"}, {"system": "b"}], "system"),
        ([{"template": "model"}, {"template": "none"}], "template"),
    ],
)
def test_an_edit_that_would_undo_another_is_refused(
    base: Path, edits: list[dict[str, Any]], key: str
) -> None:
    with pytest.raises(InputError, match=f"would undo {key}: of an edit before it"):
        build(base, "undone", *edits)


@pytest.mark.parametrize(
    "edits",
    [
        [{"template": "none"}],
        [{"prompt": "same"}],
        [{"prompt": "same"}, {"template": "none"}],
    ],
)
def test_edits_that_leave_every_prompt_as_it_is_are_refused(
    tmp_path: Path, edits: list[dict[str, Any]]
) -> None:
    path = write_lines(tmp_path / "mine.jsonl", QUESTIONS)
    recipe = FileTexts(source="file", path=str(path), fields={**FIELDS, "same": "question"})
    base = tmp_path / "texts.jsonl"
    texts.build(recipe, base, base.with_suffix(".json"))
    with pytest.raises(InputError, match=r"leave every prompt as it is, .* remove the edit, or"):
        build(base, "idle", *edits)
    assert not list((base.parent / "idle").iterdir())
    assert read(build(base, "model", {"template": "model"}))[0].prompt is None


def test_texts_without_prompts_have_nothing_to_edit(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.txt", ["one", "two"])
    recipe = FileTexts(source="file", path=str(path))
    texts.build(recipe, tmp_path / "texts.jsonl", tmp_path / "texts.json")
    with pytest.raises(InputError, match="the texts have no prompts, so there is nothing to edit"):
        build(tmp_path / "texts.jsonl", "kind", {"system": "Be kind."})


def test_texts_that_were_changed_by_hand_are_refused(base: Path) -> None:
    base.write_text(base.read_text().replace("Nothing", "Something"))
    with pytest.raises(InputError, match="were changed after they were made"):
        build(base, "kind", {"system": "Be kind."})


def run(base: Path, edits: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--texts", str(base)]
    command += ["--manifest", str(base.with_suffix(".json")), "--edits", edits, "--recipe", "{}"]
    command += ["--out-texts", str(folder / "v.jsonl"), "--out-manifest", str(folder / "v.json")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_makes_the_edits_of_its_arguments(base: Path, tmp_path: Path) -> None:
    done = run(base, json.dumps([{"prompt": "english"}, {"suffix": "!"}]), tmp_path)
    assert done.returncode == 0, done.stderr
    prompts = [text.prompt for text in read(tmp_path / "v.jsonl")]
    assert prompts == [f"{row['en']}!\n" for row in QUESTIONS]


@pytest.mark.parametrize("edits", ["{", '[{"prefx": "a"}]', '[{"of": ["a", "b"]}]'])
def test_the_script_refuses_what_is_no_single_edit(base: Path, tmp_path: Path, edits: str) -> None:
    done = run(base, edits, tmp_path)
    assert done.returncode == 1
    assert "--edits" in done.stderr
    assert "Traceback" not in done.stderr
