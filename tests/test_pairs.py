"""Texts that are responses to prompts: where they come from, how they are kept, how they look."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import TypeAdapter

from klmap import geometry, pairs, selection, store, texts
from klmap.config_texts import DrawnTexts, EnvironmentTexts, FileTexts, HubTexts, SelectionTexts
from klmap.errors import InputError
from klmap.selection import Made, Reference
from klmap.texts import Text, read_texts
from tests import mapfiles
from tests.dataset_server import NAME, serve
from tests.test_texts import random_text, write_lines

ROOT = Path(__file__).parents[1]
FIELDS = {"prompt": "question", "response": "answer"}
QUESTIONS = [
    {"question": "Was ist Öl?", "answer": "Ein Stoff.", "domain": "de", "en": "What is oil?"},
    {"question": "", "answer": "Nothing was asked.", "domain": "none", "en": ""},
    {"question": "Why?\n", "answer": "Därum. 😀", "domain": "de", "en": "Why?"},
]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def recipe_of(path: Path, **keys: Any) -> FileTexts:
    return FileTexts(source="file", path=str(path), **keys)


def make(folder: Path, recipe: DrawnTexts) -> tuple[list[Text], dict[str, Any]]:
    texts.build(recipe, folder / "texts.jsonl", folder / "texts.json")
    manifest = json.loads((folder / "texts.json").read_text())
    return read_texts(folder / "texts.jsonl", folder / "texts.json"), manifest


# ------------------------------------------------------------------------------- rendering


@pytest.mark.parametrize(
    ("messages", "separator", "expected"),
    [
        ((user("Why?"),), "\n", "Why?\n"),
        ((user("Why?"),), "", "Why?"),
        ((user(""),), "\n", ""),
        ((), "\n", ""),
        ((system(""), user("")), "\n", ""),
        ((system(""), user("Why?")), " ", "Why? "),
        ((system("Be kind."), user("Why?")), "\n\n", "Be kind.\n\nWhy?\n\n"),
        ((user("a"), assistant("b"), user("c")), "|", "a|b|c|"),
        ((user(" "),), "|", " |"),
        ((system("Be kind."), user("Why?")), "", "Be kind.\nWhy?"),
        ((system("Be kind. "), user("Why?")), "", "Be kind. Why?"),
        ((user("a"), assistant("b"), system("c"), system("")), "", "abc\n"),
    ],
)
def test_every_content_is_followed_by_the_separator_and_empty_ones_are_not_seen(
    messages: pairs.Messages, separator: str, expected: str
) -> None:
    assert pairs.rendered(messages, separator) == expected


# ------------------------------------------------------------------------------- cutting


def slow_cut(text: str, most: int) -> tuple[str, str] | None:
    """Every place is tried."""
    fitting = [place for place in range(len(text)) if len(text[:place].encode()) <= most]
    if len(text.encode()) <= most:
        return None
    borders = [
        place
        for place in fitting
        if place and text[place].isspace() and not text[place - 1].isspace()
    ]
    place = max(borders or fitting)
    return (text[:place], text[place:]) if text[place:].split() else None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("most", [1, 2, 7, 40, 119])
def test_a_text_is_cut_at_the_last_border_between_words_that_fits(seed: int, most: int) -> None:
    for length in range(0, 60, 7):
        text = random_text(100 * seed + length, length)
        found = pairs.cut(text, most)
        assert found == slow_cut(text, most)
        if found is not None:
            assert "".join(found) == text
            assert len(found[0].encode()) <= most


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("one two three", 7, ("one two", " three")),
        ("one two three", 8, ("one two", " three")),
        ("one two three", 6, ("one", " two three")),
        ("one \n two", 4, ("one", " \n two")),
        ("einhundert", 3, ("ein", "hundert")),
        ("ä漢字漢字", 6, ("ä漢", "字漢字")),
        ("漢字", 2, ("", "漢字")),
        ("   indented", 5, ("   in", "dented")),
        ("one two", 7, None),
        ("one two", 100, None),
        ("one two   ", 8, None),
        ("", 5, None),
    ],
)
def test_the_response_begins_with_the_white_space_and_keeps_a_word(
    text: str, most: int, expected: tuple[str, str] | None
) -> None:
    assert pairs.cut(text, most) == expected


def test_responses_of_running_text_continue_their_prompts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f"{number} " + "word " * (number % 30 + 1) + "end" for number in range(120)]
    path = write_lines(tmp_path / "mine.txt", lines)
    caplog.set_level(logging.INFO, "klmap")
    made, manifest = make(tmp_path, recipe_of(path, prompt_bytes=50, n=20))
    long = [line for line in lines if pairs.cut(line, 50)]
    drawn = [long[place] for place in sorted(random.Random(42).sample(range(len(long)), 80)[:20])]
    assert [f"{text.prompt}{text.text}" for text in made] == drawn
    assert all(text.messages == (user(str(text.prompt)),) for text in made)
    assert all(text.n_bytes == len(text.text.encode()) for text in made)
    assert manifest["candidates"] == len(long)
    assert f"{120 - len(long)} texts have nothing behind a prompt of 50 bytes" in caplog.text
    assert manifest["mean_bytes"] == sum(text.n_bytes for text in made) / 20
    assert manifest["mean_prompt_bytes"] == sum(len(str(text.prompt)) for text in made) / 20
    assert (manifest["separator"], manifest["template"]) == ("", "none")


def test_chunks_are_cut_after_they_were_made(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.jsonl", [{"text": "a b c d e f " * 40}])
    made, _ = make(tmp_path, recipe_of(path, prompt_bytes=12, chunk=True, max_bytes=64))
    chunks = texts.chunks("a b c d e f " * 40, 64, 0)
    assert [(text.prompt, text.text) for text in made] == [pairs.cut(one, 12) for one in chunks]


def test_texts_of_the_environment_can_be_cut(tmp_path: Path) -> None:
    made, manifest = make(tmp_path, EnvironmentTexts(source="environment", n=21, prompt_bytes=100))
    assert set(manifest["domains"].values()) == {3}
    assert all(0 < len(str(text.prompt).encode()) <= 100 and text.text.strip() for text in made)


def test_texts_that_are_too_short_for_a_response_are_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.txt", ["one two", "three four", "five six"])
    with pytest.raises(InputError, match=r"0 responses .* or lower min_bytes or prompt_bytes"):
        make(tmp_path, recipe_of(path, prompt_bytes=50))


# ------------------------------------------------------------------------------- records


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_prompt_and_response_come_from_their_fields(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"mine.{kind}"
    rows = [{"pair": row, "domain": row["domain"]} for row in QUESTIONS]
    if kind == "jsonl":
        write_lines(path, rows)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    fields = {"prompt": "pair.question", "response": "pair.answer", "english": "pair.en"}
    made, manifest = make(tmp_path, recipe_of(path, fields=fields))
    prompts = ["Was ist Öl?\n", "", "Why?\n\n"]
    assert made == [
        Text(
            index=number,
            text=row["answer"],
            domain=row["domain"],
            n_bytes=len(row["answer"].encode()),
            prompt=prompt,
            messages=(user(row["question"]),),
            prompts={"english": row["en"]},
        )
        for number, (row, prompt) in enumerate(zip(QUESTIONS, prompts, strict=True))
    ]
    assert manifest["mean_prompt_bytes"] == sum(len(prompt.encode()) for prompt in prompts) / 3
    assert (manifest["separator"], manifest["template"]) == ("\n", "none")
    recipe: DrawnTexts = TypeAdapter(DrawnTexts).validate_python(manifest["recipe"])
    assert recipe.recipe() == manifest["recipe"]


def test_a_line_of_a_set_says_all_of_its_prompt_and_nothing_more(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.jsonl", QUESTIONS)
    make(tmp_path, recipe_of(path, fields=FIELDS))
    first = json.loads((tmp_path / "texts.jsonl").read_text().splitlines()[0])
    assert first == {
        "index": 0,
        "text": "Ein Stoff.",
        "domain": "de",
        "n_bytes": 10,
        "origin": f"{path}:1",
        "prompt": "Was ist Öl?\n",
        "messages": [user("Was ist Öl?")],
    }


def test_a_set_without_prompts_says_nothing_of_them(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.txt", ["one", "two"])
    made, manifest = make(tmp_path, recipe_of(path))
    lines = [
        f'{{"index": {n}, "text": "{text}", "domain": "all", "n_bytes": 3, "origin": '
        f'"{path}:{n + 1}"}}\n'
        for n, text in enumerate(("one", "two"))
    ]
    assert (tmp_path / "texts.jsonl").read_text() == "".join(lines)
    assert not {"template", "separator", "mean_prompt_bytes"} & set(manifest)
    assert not any(text.is_paired or text.prompt or text.prompts for text in made)


CHAT = [system("Be brief."), user("2 + 2?"), assistant("4"), user("And 3 + 3?"), assistant("6")]


@pytest.mark.parametrize(
    "value",
    [
        CHAT,
        [{**each, "weight": 1, "name": None} for each in CHAT],
        [
            {"from": {"user": "human", "assistant": "gpt"}.get(role, role), "value": content}
            for role, content in (each.values() for each in CHAT)
        ],
        {key: [each[key] for each in CHAT] for key in ("role", "content")},
    ],
)
def test_the_last_message_of_a_conversation_is_the_response(tmp_path: Path, value: Any) -> None:
    path = write_lines(tmp_path / "mine.jsonl", [{"chat": value}, {"chat": [assistant("Hello.")]}])
    made, _ = make(tmp_path, recipe_of(path, fields={"messages": "chat"}, separator="\n\n"))
    assert [text.text for text in made] == ["6", "Hello."]
    assert made[0].messages == tuple(CHAT[:-1])
    assert made[0].prompt == "Be brief.\n\n2 + 2?\n\n4\n\nAnd 3 + 3?\n\n"
    assert (made[1].messages, made[1].prompt) == ((), "")


def test_the_template_of_a_model_renders_prompts_later(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.jsonl", [{"chat": CHAT}, {"chat": [assistant("Hello.")]}])
    made, manifest = make(tmp_path, recipe_of(path, fields={"messages": "chat"}, template="model"))
    assert [text.prompt for text in made] == [None, None]
    assert made[0].is_paired
    contents = "".join(each["content"] for each in CHAT[:-1])
    assert manifest["mean_prompt_bytes"] == len(contents) / 2
    assert manifest["template"] == "model"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"answer": "x"}, ":2: no field 'question' (fields here: answer); name it with fields:"),
        ({"question": "x"}, ":2: no field 'answer' (fields here: question); name it with fields:"),
        ({"question": ["x"], "answer": "x"}, ":2: question is list, expected a string"),
        ({"question": "half \ud83d", "answer": "x"}, ":2: question holds half a surrogate pair"),
        ({"question": "x", "answer": ""}, ":2: the response has 0 UTF-8 bytes"),
        ({"question": "x", "answer": None}, ":2: answer is null; give it a value, or remove"),
        ({"question": None, "answer": "x"}, ":2: question is null; give it a value, or remove"),
    ],
)
def test_a_bad_pair_is_named_with_file_and_line(
    tmp_path: Path, record: dict[str, Any], words: str
) -> None:
    path = write_lines(tmp_path / "mine.jsonl", [QUESTIONS[0], record, QUESTIONS[0]])
    with pytest.raises(InputError) as caught:
        make(tmp_path, recipe_of(path, fields=FIELDS))
    assert str(caught.value).startswith(f"{path}{words}")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("chat", "words"),
    [
        ("Hello", "chat is str, expected a list of messages"),
        ([], "chat has no message"),
        ([user("x")], "the last of chat is no message of the assistant"),
        ([user("x"), assistant("")], "the response has 0 UTF-8 bytes"),
        ([user("x"), {"role": "tool", "content": "1"}, assistant("y")], "chat[1].role is 'tool'"),
        ([user("x"), "y"], "chat[1] is no message; expected role and content"),
        ([{"role": "user"}, assistant("y")], "chat[0].content is null, expected a string"),
        ([{"role": None, "content": "x"}, assistant("y")], "chat[0] has null as its role"),
        ([user("x"), None], "chat[1] is null, expected a message"),
        ({"role": None, "content": None}, "chat has no message"),
        (None, "chat is null; give it a value, or remove the record"),
        ([user("x"), {"text": "y"}], "chat[1] is no message; expected role and content"),
        ([{"role": 3, "content": "x"}, assistant("y")], "chat[0].role is 3; known are system,"),
        ({"role": ["user"], "content": ["a", "b"]}, "chat is dict, expected a list of messages"),
    ],
)
def test_a_bad_conversation_is_named_with_file_and_line(
    tmp_path: Path, chat: Any, words: str
) -> None:
    path = write_lines(tmp_path / "mine.jsonl", [{"chat": CHAT}, {"chat": chat}])
    with pytest.raises(InputError) as caught:
        make(tmp_path, recipe_of(path, fields={"messages": "chat"}))
    assert str(caught.value).startswith(f"{path}:2: {words}")


def test_lines_of_a_text_file_have_no_fields(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.txt", ["one", "two"])
    with pytest.raises(InputError, match=r"lines of a \.txt file have no fields"):
        make(tmp_path, recipe_of(path, fields=FIELDS))


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    parquet.write_table(pa.Table.from_pylist([{"q": "x", "answer": "y"}] * 3), path)
    with pytest.raises(InputError, match=r"no field 'question' \(fields here: q, answer\)"):
        make(tmp_path, recipe_of(path, fields=FIELDS))


def test_the_questions_of_the_examples_are_a_set_of_four_domains(tmp_path: Path) -> None:
    fields = {**FIELDS, "german": "question_de"}
    made, manifest = make(tmp_path, recipe_of(ROOT / "examples" / "questions.jsonl", fields=fields))
    assert (manifest["n"], set(manifest["domains"].values())) == (60, {15})
    assert len({text.prompt for text in made}) == len({text.text for text in made}) == 60
    assert all(text.prompts["german"] != text.prompt for text in made)


# ------------------------------------------------------------------------------- the Hub


def script(*arguments: str | Path, **keys: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **keys)


def of_the_hub(folder: Path, rows: list[dict[str, Any]], **keys: Any) -> tuple[str, Path]:
    """Make a set of a dataset with these rows; what the script said, and texts.jsonl."""
    recipe = HubTexts(source="hub", dataset=NAME, **keys).recipe()
    with serve(rows) as hub:
        made = script(
            ROOT / "scripts" / "texts.py",
            *("--recipe", json.dumps(recipe)),
            *("--texts", folder / "texts.jsonl", "--manifest", folder / "texts.json"),
            env=hub.environment(folder / "home"),
        )
    return made.stderr, folder / "texts.jsonl"


def test_pairs_of_a_dataset_are_sampled_among_the_rows_with_a_response(tmp_path: Path) -> None:
    rows = [
        {"meta": {"q": f"Question {n}?", "set": "ab"[n % 2]}, "a": "answer " * (n % 5)}
        for n in range(40)
    ]
    said, path = of_the_hub(
        tmp_path,
        rows,
        fields={"prompt": "meta.q", "response": "a"},
        domain_field="meta.set",
        documents=30,
        n=8,
        pool=12,
    )
    assert "6 of 30 rows cannot be scored and are left out, such as someone/pile[train]:0" in said
    usable = [row for row in rows[:30] if row["a"]]
    expected = random.Random(42).sample(usable, 12)[:8]
    made = read_texts(path, path.with_suffix(".json"))
    assert [(text.prompt, text.text, text.domain) for text in made] == [
        (f"{row['meta']['q']}\n", row["a"], row["meta"]["set"]) for row in expected
    ]


def test_conversations_of_a_dataset_end_with_the_response(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"chat": [user(f"Question {n}?"), assistant(f"Answer {n}.")]} for n in range(12)
    ]
    rows[2]["chat"].append(user("Thanks."))
    rows[6]["chat"] = []
    rows[7]["chat"] = None
    rows[8]["chat"][0]["role"] = "tool"
    rows[9]["chat"][0]["role"] = None
    rows[10]["chat"][0]["content"] = None
    rows[11]["chat"][1]["content"] = None
    said, path = of_the_hub(tmp_path, rows, fields={"messages": "chat"}, n=5, template="model")
    assert "7 of 12 rows cannot be scored and are left out" in said
    made = read_texts(path, path.with_suffix(".json"))
    assert {(text.messages or ())[0]["content"][-2] + text.text[-2] for text in made} == {
        f"{n}{n}" for n in (0, 1, 3, 4, 5)
    }


def test_rows_of_a_dataset_with_null_in_a_pair_are_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"meta": {"q": f"{n}?", "other": "x"}, "a": f"{n}.", "en": "Why?"} for n in range(7)
    ]
    rows[0]["a"] = None
    rows[1]["meta"]["q"] = None
    rows[3]["meta"] = None
    rows[5]["en"] = None
    fields = {"prompt": "meta.q", "response": "a", "english": "en"}
    said, path = of_the_hub(tmp_path, rows, fields=fields, n=3)
    assert "4 of 7 rows cannot be scored and are left out, such as" in said
    assert "[train]:0: a is null" in said
    made = read_texts(path, path.with_suffix(".json"))
    assert {(text.prompt, text.text) for text in made} == {(f"{n}?\n", f"{n}.") for n in (2, 4, 6)}


def test_a_dataset_without_the_field_is_refused_with_what_it_has(tmp_path: Path) -> None:
    said, path = of_the_hub(tmp_path, QUESTIONS, fields={"messages": "chat"}, n=2)
    assert f"{NAME}[train]:0: no field 'chat' (fields here: question, answer, domain, en)" in said
    assert not path.exists()


# ------------------------------------------------------------------------------- reading a set


@pytest.fixture
def finished_set(tmp_path: Path) -> Path:
    path = write_lines(tmp_path / "mine.jsonl", QUESTIONS)
    make(tmp_path, recipe_of(path, fields={**FIELDS, "english": "en"}))
    return tmp_path / "texts.jsonl"


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda record: record.pop(key)


def with_value(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda record: record.update({key: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("messages"), "there is a prompt, but no messages"),
        (with_value("messages", {}), "expected a list of messages"),
        (with_value("messages", [{"role": "human", "content": ""}]), "not as klmap writes them"),
        (with_value("messages", [{"role": "robot", "content": ""}]), "messages[0].role is 'robot'"),
        (with_value("prompt", 3), "prompt is int, expected a string"),
        (with_value("prompt", "Why not?\n"), "the prompt is 'Why not?\\n', but its messages give"),
        (with_value("prompt", None), "the prompt is None, but its messages give ''"),
        (with_value("prompts", ["x"]), "expected a list of messages and other prompts by name"),
        (with_value("prompts", {"english": 3}), "prompts.english is int, expected a string"),
    ],
)
def test_a_prompt_that_does_not_belong_is_named_with_file_and_line(
    finished_set: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    records = [json.loads(line) for line in finished_set.read_text().splitlines()]
    change(records[1])
    write_lines(finished_set, records)
    manifest = finished_set.with_suffix(".json")
    digest = hashlib.sha256(finished_set.read_bytes()).hexdigest()
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "sha256": digest}))
    with pytest.raises(InputError) as caught:
        read_texts(finished_set, manifest)
    assert str(caught.value).startswith(f"{finished_set}:2: ")
    assert words in str(caught.value)


def test_texts_with_and_without_prompts_are_not_mixed(finished_set: Path) -> None:
    records = [json.loads(line) for line in finished_set.read_text().splitlines()]
    for key in ("prompt", "messages", "prompts"):
        del records[1][key]
    write_lines(finished_set, records)
    with pytest.raises(InputError, match=r":2: has no prompt, unlike the others"):
        read_texts(finished_set)


# ------------------------------------------------------------------------------- selections


def write_matrix(path: Path, of: list[Text], manifest: dict[str, Any]) -> None:
    """A matrix of five models that differ."""
    loglik = np.random.default_rng(3).normal(-60, 8, (5, len(of)))
    threshold = geometry.clip_threshold(loglik)
    matrix = store.Matrix(
        loglik=loglik,
        coordinates=geometry.double_centre(loglik, threshold).astype(np.float32),
        model=[model.model for model in mapfiles.models(5)],
        domain=[text.domain for text in of],
        n_bytes=np.array([text.n_bytes for text in of], np.int32),
        clip_quantile=0.02,
        clip_threshold=threshold,
        mean_bytes=manifest["mean_bytes"],
        texts_sha256=manifest["sha256"],
    )
    store.write_matrix(path, matrix)


def test_a_selection_keeps_prompts(tmp_path: Path) -> None:
    rows = [
        {"question": f"Question {n}? " + "x" * (n % 7), "answer": "y" * (n % 9 + 1), "en": f"{n}"}
        for n in range(60)
    ]
    path = write_lines(tmp_path / "mine.jsonl", rows)
    fields = {**FIELDS, "english": "en"}
    reference, content = make(tmp_path, recipe_of(path, fields=fields, separator=" "))
    of = Reference(tmp_path / "matrix.h5", tmp_path / "texts.jsonl", tmp_path / "texts.json")
    write_matrix(of.matrix, reference, content)
    made = Made(*(tmp_path / "some" / name for name in ("texts.jsonl", "texts.json", "chosen.h5")))
    selection.build(SelectionTexts(source="selection", of="all", n=20), "some", of, made)
    chosen = read_texts(made.texts, made.manifest)
    manifest = json.loads(made.manifest.read_text())
    places = [json.loads(line)["reference_index"] for line in made.texts.open(encoding="utf-8")]
    for text, place in zip(chosen, places, strict=True):
        whole = reference[place]
        assert (text.prompt, text.messages, text.prompts) == (
            *(whole.prompt, whole.messages, whole.prompts),
        )
    sizes = [len(str(text.prompt)) for text in chosen]
    assert manifest["mean_prompt_bytes"] == sum(sizes) / len(sizes)
    assert (manifest["separator"], manifest["template"]) == (" ", "none")
