"""Pre-flight: every state with its reason and fix, the totals, and what a run would do."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klmap import (
    allocation,
    estimates,
    natives,
    preflight,
    preflight_table,
    questions,
    resolve,
    store_score,
)
from klmap.cards import Card, read_card, write_card
from klmap.config import Hardware
from klmap.errors import InputError, KlmapError
from klmap.estimates import Measured, Speed
from klmap.preflight import Outlook, Row, TextSet, Wanted
from klmap.refresh import Source
from tests.builders import tiny_model
from tests.hub_server import Hub, Repository, serve
from tests.project import Project, copy_clone, make_project

MACHINE = Hardware(gpu_memory_gb=80, max_gpus=4, disk_budget_gb=500)
TEXTS = TextSet("tiny", 10_000, 1024)
COMMIT = "a" * 40


def card_of(id: str, **values: Any) -> Card:
    """A usable card: seven billion parameters, 14 GB."""
    known = {"commit": COMMIT, "parameters": 7_000_000_000, "bytes": 14_000_000_000}
    files = [{"name": "model.safetensors", "size": values.get("bytes", known["bytes"])}]
    return Card(id, **{**known, "files": files, **values})


class Run:
    """A configuration with cards, and nothing to ask anybody."""

    def __init__(self, folder: Path) -> None:
        self.results = folder / "results"
        self.sources: list[Source] = []
        self.wanted: list[Wanted] = []

    def add(self, id: str, card: Card | None, *, folder: Path | None = None, **how: str) -> Wanted:
        name = id.replace("/", "--")
        if name not in {source.name for source in self.sources}:
            self.sources.append(Source(name, id, None, folder))
        if card is not None:
            write_card(self.results / "models" / name / "card.json", card)
        variant = how.get("quantization", "")
        model = f"{name}+{variant}" if variant else name
        score = self.results / "tiny" / "scores" / f"{model}.0123456789ab.h5"
        item = Wanted(model, name, "tiny", score, how.get("dtype", "auto"), variant)
        self.wanted.append(item)
        return item

    def look(self, hardware: Hardware = MACHINE, *, skip: bool = False) -> Outlook:
        return preflight.look(
            self.sources, self.wanted, [TEXTS], self.results / "models", hardware, skip=skip
        )

    def row(self, hardware: Hardware = MACHINE) -> Row:
        [row] = self.look(hardware).rows
        return row


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def write_score(item: Wanted, *, n: int = 12, **attributes: Any) -> None:
    """A finished score of ``n`` texts with 300 tokens each."""
    named = {key: attributes.pop(key) for key in ("status", "error") if key in attributes}
    failed = named.get("status") == "failed"
    size = 0 if failed else n
    score = store_score.Score(
        *(item.model, attributes.pop("commit", COMMIT), "texts", "0123456789ab"),
        spec={"id": item.source.replace("--", "/"), "revision": None},
        loglik=np.zeros(size),
        n_tokens=np.full(size, 301, np.int32),
        n_scored=np.full(size, 300, np.int32),
        truncated=np.zeros(size, np.bool_),
        attributes={"gpus": 1, "tokens_per_second": 5e3, "startup_seconds": 54.0} | attributes,
        **named,
    )
    store_score.write_score(item.score, score)


def write_manifest(run: Run, **values: Any) -> None:
    path = run.results / "tiny" / "texts.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"n": 12, "sha256": "texts", "mean_bytes": 900.0, **values}))


# States


def test_ready(run: Run) -> None:
    run.add("org/a", card_of("org/a"))
    row = run.row()
    assert (row.state, row.reason, row.missing, row.gpus) == ("ready", "", 1, 1)
    assert row.download == 14_000_000_000


def test_demo_models_without_a_card_are_built_here(run: Run) -> None:
    run.add("demo/gpt2-base", None, folder=run.results / "models" / "_zoo")
    assert run.row().state == "built here"


def test_a_folder_needs_no_disk(run: Run, tmp_path: Path) -> None:
    run.add("./a", card_of("./a"), folder=tmp_path)
    assert run.row(Hardware(disk_budget_gb=1)).state == "ready"


def test_too_large_for_the_disk(run: Run) -> None:
    run.add("org/a", card_of("org/a"))
    row = run.row(Hardware(disk_budget_gb=13.9))
    assert row.state == "too large"
    assert "14.0 GB to download, and hardware.disk_budget_gb allows 13.9 GB; raise" in row.reason
    assert run.row(Hardware(disk_budget_gb=14)).state == "ready"


@pytest.mark.parametrize(
    ("how", "gigabytes", "gpus"),
    [
        ({}, 14.0, 1),
        ({"dtype": "float32"}, 28.0, 2),
        ({"dtype": "float32", "quantization": "int8"}, 7.7, 1),
        ({"quantization": "nf4"}, 4.2, 1),
    ],
)
def test_memory_follows_the_dtype_it_runs_in(
    run: Run, how: dict[str, str], gigabytes: float, gpus: int
) -> None:
    run.add("org/a", card_of("org/a"), **how)
    item = run.wanted[0]
    weights = allocation.weights_in_memory(card_of("org/a"), item.dtype, item.quantization)
    assert weights == pytest.approx(gigabytes * 1e9)
    small = Hardware(gpu_memory_gb=24, max_gpus=1)
    row = run.row(small)
    assert row.gpus == gpus
    assert row.state == ("too large" if gpus > 1 else "ready")


def test_too_large_for_the_gpus_names_both_ways_out(run: Run) -> None:
    run.add("org/a", card_of("org/a"))
    row = run.row(Hardware(gpu_memory_gb=8, max_gpus=2))
    assert row.state == "too large"
    assert "14.0 GB of GPU memory" in row.reason
    assert (
        "raise max_gpus to 3 (or gpu_memory_gb, if yours have more), set quantization" in row.reason
    )
    assert run.row(Hardware(gpu_memory_gb=8, max_gpus=0)).state == "ready", "no GPU, no limit"


def test_stored_and_wanted_quantization_exclude_each_other(run: Run) -> None:
    run.add("org/a", card_of("org/a", quantization="gptq-4bit"), quantization="int8")
    row = run.row()
    assert row.state == "unusable"
    assert "remove quantization: from the entry" in row.reason


def test_weights_of_bitsandbytes_stay_as_small_as_they_are_stored() -> None:
    card = card_of("org/a", bytes=4_000_000_000, quantization="bitsandbytes-nf4")
    assert allocation.weights_in_memory(card, "auto", "") == 4e9
    assert allocation.weights_in_memory(replace(card, quantization="gptq-4bit"), "auto", "") == 14e9


def test_scored_when_the_score_is_of_this_commit_and_these_texts(run: Run) -> None:
    item = run.add("org/a", card_of("org/a"))
    write_manifest(run)
    write_score(item)
    assert run.row().state == "scored"
    write_card(run.results / "models" / "org--a" / "card.json", card_of("org/a", commit="b" * 40))
    assert run.row().state == "ready", "the model has moved"
    write_score(item, commit="b" * 40)
    assert run.row().state == "scored"
    write_manifest(run, sha256="others")
    assert run.row().state == "ready", "the texts are others"


def test_a_large_score_is_not_opened(run: Run) -> None:
    item = run.add("org/a", card_of("org/a"))
    item.score.parent.mkdir(parents=True)
    item.score.write_bytes(bytes(100_000))
    assert run.row().state == "scored"
    os.utime(item.score, (1, 1))
    row = run.row()
    assert row.state == "unusable", "older than the card, so it was opened"
    assert "remove it and run again" in row.reason


def test_a_failed_score_is_a_problem(run: Run) -> None:
    item = run.add("org/a", card_of("org/a"))
    write_score(item, status="failed", error="org--a: the tokenizer fails; use another")
    row = run.row()
    assert (row.state, row.reason) == ("unusable", "org--a: the tokenizer fails; use another")


def test_a_reason_left_by_an_earlier_attempt_counts_until_something_changes(run: Run) -> None:
    item = run.add("org/a", card_of("org/a"))
    left = {
        "commit": COMMIT,
        "error": "no tokenizer",
        "software": {"transformers": natives.VERSION},
    }
    path = item.score.with_suffix(".failed.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(left))
    row = run.row()
    assert row.state == "unusable"
    assert row.reason == f"no tokenizer; to try again all the same, remove {path}"
    for change in ({"commit": "b" * 40}, {"software": {"transformers": "4.0"}}):
        path.write_text(json.dumps(left | change))
        assert run.row().state == "ready"


# Questions


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What models answer, by id; ``asked['asked']`` lists the questions."""
    answers: dict[str, Any] = {"asked": []}

    def answer(id: str, *_: Any, **__: Any) -> Card:
        answers["asked"].append(id)
        found = answers.get(id, card_of(id))
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    monkeypatch.setattr(resolve, "resolve_or_explain", answer)
    return answers


def failing(id: str, state: str, error: str) -> Card:
    return Card(id, error=error, state=state)


def test_a_usable_card_is_never_asked_about(run: Run, asked: dict[str, Any]) -> None:
    run.add("org/a", card_of("org/a"))
    run.add("org/b", None)
    run.add("org/b", None, quantization="int8")
    run.look()
    assert asked["asked"] == ["org/b"], "one question for all variants, none for what is known"
    run.look()
    assert asked["asked"] == ["org/b"], "the answer was kept"


@pytest.mark.parametrize("skip", [True, False])
def test_an_unusable_model_gets_a_card_with_skip_alone(
    run: Run, asked: dict[str, Any], skip: bool
) -> None:
    run.add("org/a", None)
    asked["org/a"] = failing("org/a", "needs a token", "org/a: gated; log in")
    path = run.results / "models" / "org--a" / "card.json"
    outlook = run.look(skip=skip)
    assert (outlook.rows[0].state, outlook.rows[0].reason) == (
        "needs a token",
        "org/a: gated; log in",
    )
    assert path.is_file() is skip
    assert bool(outlook.blocking) is not skip
    if skip:
        assert read_card(path).error == "org/a: gated; log in"


def test_a_card_with_an_error_is_rewritten_only_if_the_model_became_usable(
    run: Run, asked: dict[str, Any]
) -> None:
    run.add("org/a", failing("org/a", "needs a token", "gated"))
    path = run.results / "models" / "org--a" / "card.json"
    before = path.stat().st_mtime_ns, path.read_bytes()
    asked["org/a"] = failing("org/a", "gone", "no longer there")
    assert run.look(skip=True).rows[0].state == "gone"
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    asked["org/a"] = KlmapError("no network")
    assert run.look(skip=True).rows[0].state == "needs a token", "what was known before"
    asked["org/a"] = card_of("org/a")
    assert run.look(skip=True).rows[0].state == "ready"
    assert not read_card(path).error


def test_no_answer_is_no_verdict(run: Run, asked: dict[str, Any]) -> None:
    run.add("org/a", None)
    run.add("org/b", None)
    asked["org/a"] = KlmapError("org/a: the Hub cannot be reached")
    outlook = run.look(skip=True)
    assert [row.state for row in outlook.rows] == ["unreachable", "ready"]
    assert [row.model for row in outlook.blocking] == ["org--a"], "even with skip"
    assert not (run.results / "models" / "org--a").exists()


def test_a_hub_that_answers_nobody_is_given_up(run: Run, asked: dict[str, Any]) -> None:
    number = questions.GIVE_UP + 4 * questions.THREADS
    for index in range(number):
        run.add(f"org/m{index}", None)
        asked[f"org/m{index}"] = KlmapError(f"org/m{index}: the Hub cannot be reached")
    outlook = run.look()
    most = questions.GIVE_UP + questions.THREADS
    assert questions.GIVE_UP <= len(asked["asked"]) <= most, "those in work at the time are more"
    assert {row.state for row in outlook.rows} == {"unreachable"}
    assert sum("not asked" in row.reason for row in outlook.rows) == number - len(asked["asked"])


def test_an_unexpected_error_is_not_swallowed(run: Run, asked: dict[str, Any]) -> None:
    run.add("org/a", None)
    asked["org/a"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        run.look()


# Estimates


def measured(parameters: int, flops: float, gpus: int = 1, **values: Any) -> Measured:
    known = {"startup": 40.0, "demo": False, "texts_sha256": "texts", "tokens": 3_000_000}
    return Measured(parameters, flops, gpus=gpus, **{**known, **values})


def test_tokens_of_the_published_texts() -> None:
    assert estimates.tokens_of(10_000, 1024, None, []) == pytest.approx(2.7e6, rel=0.01)
    manifest = {"n": 5000, "mean_bytes": 720.0, "sha256": "texts"}
    assert estimates.tokens_of(10_000, 1024, manifest, []) == pytest.approx(1e6)
    found = [measured(1, 1.0, tokens=7), measured(1, 1.0, tokens=9, texts_sha256="others")]
    assert estimates.tokens_of(10_000, 1024, manifest, found) == 7
    assert estimates.tokens_of(None, 1024, None, found) is None


def test_time_is_start_reading_and_two_operations_per_parameter_and_token() -> None:
    speed = Speed(True, (measured(7_000_000_000, 200e12),))
    card = card_of("org/a")
    work = 2 * 7e9 * 3e6 / 200e12
    assert speed.seconds(card, 3e6) == pytest.approx(40 + 14 + work)
    assert speed.seconds(card, 3e6, gpus=2) == pytest.approx(2 * (40 + 14) + work)
    assumed = estimates.ASSUMED_STARTUP + 14 + 2 * 7e9 * 3e6 / estimates.ASSUMED_FLOPS
    assert Speed(True).seconds(card, 3e6) == pytest.approx(assumed)
    assert Speed(False).seconds(card, 3e6) is None, "a CPU can be anything"


def test_a_model_is_as_fast_as_those_of_its_size() -> None:
    small = [measured(10_000_000, 1e12 + index) for index in range(20)]
    large = [measured(7_000_000_000, 2e14 + index) for index in range(estimates.SIMILAR)]
    speed = Speed(True, (*small, *large))
    assert speed.flops(13_000_000_000) == pytest.approx(2e14)
    assert speed.flops(20_000_000) == pytest.approx(1e12)


def test_speed_is_measured_on_finished_scores(run: Run) -> None:
    write_score(run.add("org/a", card_of("org/a")), n=10_000)
    write_score(run.add("org/b", card_of("org/b")), status="failed", error="nothing")
    write_score(run.add("org/c", None))
    two = run.add("demo/d", card_of("demo/d", parameters=1000, bytes=1000))
    write_score(two, gpus=0, startup_seconds=3.0)
    (run.results / "tiny" / "scores" / "broken.h5").write_bytes(b"no")
    found = sorted(estimates.measure(run.results), key=lambda one: one.parameters)
    assert [one.demo for one in found] == [True, False], "no failed, broken or unknown ones"
    assert found[1].flops == pytest.approx(2 * 7e9 * 5e3)
    assert found[1].startup == pytest.approx(54 - 14), "without reading the weights"
    assert (found[1].tokens, found[1].gpus) == (3_000_000, 1)


def test_which_speed_counts() -> None:
    gpu, cpu = measured(10, 1e14), measured(10, 1e10, gpus=0)
    demo = measured(10, 1e9, gpus=0, demo=True)
    none = Hardware(max_gpus=0)
    assert estimates.speeds([], MACHINE) == (Speed(False), Speed(True))
    assert estimates.speeds([gpu, cpu, demo], MACHINE) == (
        Speed(False, (demo,)),
        Speed(True, (gpu,)),
    )
    assert estimates.speeds([demo], MACHINE)[1] == Speed(True), "demo models say nothing of GPUs"
    assert estimates.speeds([cpu, demo], MACHINE)[1] == Speed(False, (cpu,)), "there is no GPU"
    assert estimates.speeds([gpu, cpu], none)[1] == Speed(False, (cpu,))


# The table


def rows_of(*states: str) -> list[Row]:
    rows = []
    for index, state in enumerate(states):
        id = f"org/m{index}"
        fine = state in ("ready", "scored")
        rows.append(
            Row(
                *(f"org--m{index}", Source(f"org--m{index}", id, None, None), state),
                *("" if fine else f"{id}: what is wrong; " + "what to do about it " * 8,),
                *(card_of(id) if fine else None, 14_000_000_000 if fine else 0, 1 if fine else 0),
                scores=1,
                missing=0 if state == "scored" else 1,
                seconds=1800.0 if state == "ready" else None,
            )
        )
    return rows


def outlook_of(rows: list[Row], **values: Any) -> Outlook:
    known = {"skip": False, "tokens": {"tiny": 2.7e6}, "demo_speed": Speed(False)}
    return Outlook(rows, MACHINE, **{**known, "speed": Speed(True), **values})


@pytest.mark.parametrize("width", [80, 100])
def test_problems_come_first_and_lines_fit(width: int) -> None:
    rows = rows_of("ready", "gone", "scored", "needs a token", "unreachable", "built here")
    text = preflight_table.render(outlook_of(rows), Path("results/preflight.tsv"), width)
    assert max(map(len, text.splitlines())) <= width
    places = [text.index(f"org--m{index}") for index in (4, 3, 1, 0, 5, 2)]
    assert places == sorted(places)
    assert "org/m1: what is wrong" not in text, "the name stands above"
    assert text.count("what is wrong; what to do") == 4
    totals = " ".join(text[text.index("models  ") :].split())
    assert (
        "models 6: 1 ready, 1 built here, 1 scored, 1 unreachable, 1 needs a token, 1 gone"
        in totals
    )
    assert "download 14.0 GB: org--m0; disk budget 500 GB at a time" in totals
    assert "GPU hours about 0.5 for 1 score; nothing is measured yet, 100 TFLOP/s" in totals
    assert "not yet: 3 models to mend first" in totals
    assert "on_model_failure: skip" in totals


def test_skipped_models_do_not_stop_the_run() -> None:
    rows = rows_of("ready", "gone", "not a causal LM")
    outlook = outlook_of(rows, skip=True)
    text = preflight_table.render(outlook, Path("results/preflight.tsv"))
    assert not outlook.blocking
    assert "2 models: the map is drawn without, failures.tsv says why" in text
    assert "can go through" in text


def test_too_large_stops_the_run_even_with_skip() -> None:
    outlook = outlook_of(rows_of("ready", "too large"), skip=True)
    assert [row.state for row in outlook.blocking] == ["too large"]
    text = preflight_table.render(outlook, Path("t.tsv"))
    assert "on_model_failure" not in text, "it would not help"


def test_many_models_are_summarised() -> None:
    rows = rows_of(*["ready"] * 1000)
    text = preflight_table.render(outlook_of(rows), Path("results/preflight.tsv"))
    assert "... and 960 more ready: results/preflight.tsv" in text
    assert len(text.splitlines()) < 60
    totals = " ".join(text.split())
    assert "14.0 TB: 1,000 models, the largest org--m0 with 14.0 GB" in totals
    assert "GPU hours about 500 for 1,000 scores" in totals


def test_variants_of_a_source_are_downloaded_once() -> None:
    first, second = rows_of("ready", "ready")
    rows = [first, replace(second, source=first.source)]
    text = preflight_table.render(outlook_of(rows), Path("t.tsv"))
    assert "14.0 GB: org--m0; disk budget" in " ".join(text.split())


def test_a_long_name_has_a_line_to_itself() -> None:
    [row] = rows_of("ready")
    name = "some-organisation--" + "a-very-long-name" * 5
    text = preflight_table.render(outlook_of([replace(row, model=name)]), Path("t.tsv"), 80)
    assert f"  {name}" in text.splitlines()


def test_what_the_hours_rest_on() -> None:
    rows = rows_of("ready")
    sample = (measured(1, 2e14), measured(1, 3e14), measured(1, 4e14))
    text = preflight_table.render(outlook_of(rows, speed=Speed(True, sample)), Path("t.tsv"), 200)
    assert "300 TFLOP/s and 40 s to start, measured on 3 finished scores" in text
    unknown = [replace(rows[0], seconds=None)]
    text = preflight_table.render(outlook_of(unknown, speed=Speed(False)), Path("t.tsv"), 200)
    assert "CPU hours     unknown for 1 score: no finished one" in text
    outlook = outlook_of(unknown, tokens={"mine": None})
    text = preflight_table.render(outlook, Path("results/t.tsv"), 200)
    assert "`snakemake results/mine/texts.json`" in text


def test_the_file_has_every_model(tmp_path: Path) -> None:
    rows = rows_of("ready", "gone")
    preflight.write_rows(tmp_path / "preflight.tsv", outlook_of(rows))
    with (tmp_path / "preflight.tsv").open() as file:
        ready, gone = csv.DictReader(file, delimiter="\t")
    assert (ready["state"], ready["parameters"], ready["hours"]) == ("ready", "7000000000", "0.5")
    assert (gone["state"], gone["parameters"], gone["bytes"]) == ("gone", "", "")
    assert gone["reason"].startswith("org/m1: what is wrong")


def test_a_foreign_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.tsv").write_text("model\tscore\na\tb\n")
    with pytest.raises(InputError, match="remove it, run again"):
        preflight.read_plan(tmp_path / "plan.tsv")


# The workflow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tiny_model(tmp_path_factory.mktemp("hub") / "tiny", "gpt2", seed=0)
    with serve() as running:
        for name, state in {"fine": "ok", "gated": "gated", "hidden": "private"}.items():
            running.repositories[f"org/{name}"] = Repository(folder, COMMIT, state=state)
        yield running


@pytest.mark.workflow
def test_snakemake_preflight(server: Hub, tmp_path: Path) -> None:
    project = copy_clone(tmp_path / "klmap")
    project.environment = {**server.environment(tmp_path / "home"), "COLUMNS": "100"}
    project.configure(
        texts={"tiny": {"source": "environment", "n": 24}},
        models=["org/fine", "org/gated", "org/hidden", "org/never", "demo/gpt2-base"],
        on_model_failure="skip",
        hardware={"max_gpus": 0},
    )
    done = project.snakemake("preflight", "--cores", "all")
    assert states(project) == {
        "org--fine": "ready",
        "org--gated": "needs a token",
        "org--hidden": "gone",
        "org--never": "gone",
        "demo--gpt2-base": "built here",
    }
    assert "can go through" in done.stdout
    assert "can go through" not in done.stderr, "the table is printed once"
    cards = {path.parent.name for path in project.folder.glob("results/models/*/card.json")}
    assert cards == {"org--fine", "org--gated", "org--hidden", "org--never"}
    assert read_card(project.folder / "results/models/org--gated/card.json").state == (
        "needs a token"
    )
    assert project.planned()["resolve"] == 1, "the demo model's; the run uses the others' cards"

    asked = [path for path in server.requests if path.startswith("GET /api/models/org/fine")]
    assert len(asked) == 1
    server.requests.clear()
    project.snakemake("preflight", "--cores", "1")
    assert not [path for path in server.requests if "org/fine" in path], "known by now"

    project.configure(on_model_failure="stop", models=["org/fine", "org/other"])
    done = project.snakemake("preflight", "--cores", "1", check=False)
    assert done.returncode == 1
    assert "not yet: 1 model to mend first" in done.stdout
    assert done.stderr.count("not yet: 1 model") == 0
    assert not (project.folder / "results/models/org--other/card.json").exists()


@pytest.mark.workflow
def test_preflight_of_a_finished_project(project: Project) -> None:
    (project.folder / "other.yaml").write_text((project.folder / "config.yaml").read_text())
    project.configure(models=["./models/a", "./models/b", "./models/c"])
    done = project.snakemake("preflight", "--cores", "1")
    assert states(project) == {
        "models--a": "scored",
        "models--b": "scored",
        "models--c": "ready",
    }
    assert "CPU hours     less than 0.1 on this machine for 1 score" in done.stdout
    assert "measured on 2 finished scores" in " ".join(done.stdout.split())
    done = project.snakemake("preflight", "--cores", "1", "--configfile", "other.yaml")
    assert len(states(project)) == 2
    dry = project.snakemake("preflight", "--dry-run")
    assert "preflight" in dry.stdout + dry.stderr
    assert "can go through" not in dry.stdout


def states(project: Project) -> dict[str, str]:
    with (project.folder / "results" / "preflight.tsv").open() as file:
        return {row["model"]: row["state"] for row in csv.DictReader(file, delimiter="\t")}


@pytest.mark.workflow
def test_the_plan_follows_the_configuration(tmp_path: Path) -> None:
    project = make_project(tmp_path / "klmap")
    project.snakemake("preflight", "--cores", "1")
    plan = project.folder / "results" / "models" / "_plan.tsv"
    before = plan.stat().st_mtime_ns
    assert project.planned("preflight") == {"preflight": 1}
    project.configure(scoring={"dtype": "float32"})
    assert project.planned("preflight") == {"plan": 1, "preflight": 1}
    project.snakemake("preflight", "--cores", "1")
    assert plan.stat().st_mtime_ns > before
    assert "float32" in plan.read_text()
