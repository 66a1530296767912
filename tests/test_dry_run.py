"""What a dry run tells a person: the same numbers as Snakemake's plan, and why."""

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from klmap import configfile, forecast, natives
from klmap.config import Config, fingerprint
from klmap.files import write_json
from klmap.forecast import Planned
from tests.project import AGGREGATION, Project, copy_clone, job_counts

TO_SCORE = ("new", "changed", "running now", "unfinished", "failed before")


def paragraphs(output: str) -> dict[str, dict[str, tuple[int, str]]]:
    """Number and text of each line of the summary, by text set and label."""
    found: dict[str, dict[str, tuple[int, str]]] = {}
    for part in re.split(r"^Texts ", output, flags=re.MULTILINE)[1:]:
        name = part.partition(",")[0]
        joined = re.sub(r"\n {20,}", " ", part)
        lines = re.findall(r"^  (\w[\w ]*?) +([\d,]+)(.*)$", joined, flags=re.MULTILINE)
        found[name] = {
            label: (int(number.replace(",", "")), text.strip()) for label, number, text in lines
        }
    return found


def numbers(output: str, texts: str = "tiny") -> dict[str, int]:
    """Number of models, or of jobs, by label."""
    return {label: number for label, (number, _) in paragraphs(output)[texts].items()}


def look(project: Project, *arguments: str) -> str:
    """What a dry run prints; it agrees with its own plan."""
    output = project.snakemake("--dry-run", *arguments).stdout
    jobs = job_counts(output)
    told = paragraphs(output).values()
    scores = sum(lines[label][0] for lines in told for label in TO_SCORE if label in lines)
    assert scores == jobs.get("score", 0)
    drawn = sum(lines["to be drawn"][0] for lines in told if "to be drawn" in lines)
    assert drawn == sum(jobs.get(rule, 0) for rule in AGGREGATION)
    return output


TINY = {"source": "file", "path": "texts.jsonl"}
ALL_DRAWN = {"to be drawn": 8}

EDITS: list[tuple[str, dict[str, Any], dict[str, int], str]] = [
    ("nothing", {}, {"scored already": 2}, "Nothing to be done"),
    (
        "another model",
        {"models": ["./models/a", "./models/b", "./models/c"]},
        {"scored already": 2, "new": 1, **ALL_DRAWN},
        "new                  1  models--c\n",
    ),
    ("a model less", {"models": ["./models/a"]}, {"scored already": 1, **ALL_DRAWN}, "index, "),
    (
        "another variant",
        {"models": ["./models/a", {"id": "./models/b", "dtype": "bfloat16"}]},
        {"scored already": 1, "new": 1, **ALL_DRAWN},
        "models--b+bfloat16",
    ),
    (
        "one more variant of the same weights",
        {"models": ["./models/a", "./models/b", {"id": "./models/b", "quantization": "nf4"}]},
        {"scored already": 2, "new": 1, **ALL_DRAWN},
        "models--b+nf4",
    ),
    (
        "default dtype",
        {"scoring": {"dtype": "bfloat16"}},
        {"changed": 2, **ALL_DRAWN},
        "changed              2  dtype is bfloat16, was auto: models--a, models--b\n",
    ),
    (
        "number of texts",
        {"texts": {"tiny": {**TINY, "n": 9}}},
        {"changed": 2, **ALL_DRAWN},
        "changed              2  texts: n is 9, was unset: models--a, models--b\n",
    ),
    (
        "layout",
        {"map": {"seed": 1}},
        {"scored already": 2, "to be drawn": 5},
        "layout, tree, domains, figures, explorer; because settings of the map have\n",
    ),
    ("order", {"models": ["./models/b", "./models/a"]}, {"scored already": 2}, "Nothing to be"),
    ("hardware", {"hardware": {"cpus": 2}}, {"scored already": 2}, "Nothing to be done"),
]


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("changes", "expected", "words"), [edit[1:] for edit in EDITS], ids=[edit[0] for edit in EDITS]
)
def test_the_summary_agrees_with_the_plan(
    project: Project, changes: dict[str, Any], expected: dict[str, int], words: str
) -> None:
    project.configure(**changes)
    output = look(project)
    assert numbers(output) == expected
    assert words in output


@pytest.mark.workflow
def test_each_text_set_has_a_paragraph_of_its_own(project: Project) -> None:
    project.configure(texts={"tiny": TINY, "more": {**TINY, "n": 9}})
    output = look(project)
    assert numbers(output, "tiny") == {"scored already": 2}
    assert numbers(output, "more") == {"new": 2, **ALL_DRAWN}


@pytest.mark.workflow
def test_a_new_library_version_is_said_to_be_the_reason(project: Project) -> None:
    module = project.folder / "scripts" / "klmap" / "geometry.py"
    module.write_text(module.read_text() + "\n# another version of the library\n")
    output = look(project)
    assert numbers(output) == {"scored already": 2, "to be drawn": 7}
    assert "because klmap was updated" in " ".join(output.split())


@pytest.mark.workflow
def test_scores_that_are_there_say_why_they_are_made_again(project: Project) -> None:
    assert "asked for by hand: models--a, models--b" in look(project, "--forcerun", "score")
    card = project.folder / "results/models/models--b/card.json"
    write_json(card, json.loads(card.read_text()) | {"commit": "b" * 40})
    output = look(project)
    assert numbers(output)["scored already"] == 1
    assert "changed              1  the card is newer: models--b\n" in output


@pytest.mark.workflow
def test_what_earlier_runs_have_left_is_told(project: Project) -> None:
    """A side file, a reason that counts, one that does not, jobs at work, and jobs long gone."""
    variants = ["unfinished", "failed", "again", "running", "gone"]
    for name in variants:
        shutil.copytree(project.folder / "models/a", project.folder / "models" / name)
        folder = project.folder / f"results/models/models--{name}"
        folder.mkdir()
        card = json.loads((project.folder / "results/models/models--a/card.json").read_text())
        write_json(folder / "card.json", card | {"id": f"./models/{name}"})
    project.configure(models=[f"./models/{name}" for name in ("a", "b", *variants)])
    scores = {path.split("/")[-1].split(".")[0]: path for path in wanted(project)}
    place = {name: project.folder / scores[f"models--{name}"] for name in variants}
    place["unfinished"].with_suffix(".partial").write_bytes(b"half of it")
    left = {"commit": card["commit"], "software": {"transformers": natives.VERSION}}
    failure = left | {"error": "the tokenizer fails"}
    write_json(place["failed"].with_suffix(".failed.json"), failure)
    write_json(place["again"].with_suffix(".failed.json"), failure | {"commit": "b" * 40})
    lease = {
        **{"token": "t", "host": socket.gethostname(), "pid": os.getpid(), "job": "77"},
        **{"process_started": psutil.Process().create_time(), "started": time.time()},
        **{"beat": time.time(), "done": 450, "total": 1000},
    }
    write_json(place["running"].with_suffix(".lease"), lease)
    write_json(place["gone"].with_suffix(".lease"), lease | {"process_started": 1.0})
    output = look(project)
    told = paragraphs(output)["tiny"]
    assert {label: number for label, (number, _) in told.items()} == {
        **{"scored already": 2, "new": 2, "running now": 1},
        **{"unfinished": 1, "failed before": 1},
        **ALL_DRAWN,
    }
    assert told["new"][1] == "models--again, models--gone"
    assert told["unfinished"][1] == "will go on where they were: models--unfinished"
    assert f"SLURM job 77 on {socket.gethostname()}, 45% done" in told["running now"][1]
    assert "models--failed: the tokenizer fails; to try again" in told["failed before"][1]


def wanted(project: Project) -> list[str]:
    """Files of the scores that a dry run would make."""
    output = project.snakemake("--dry-run", "scores", "--quiet", "host", "-p").stdout
    return re.findall(r"output: (\S+\.h5)", output)


@pytest.mark.workflow
def test_a_file_asked_for_by_hand_leaves_the_others_out(project: Project) -> None:
    project.configure(scoring={"dtype": "float32"})
    output = look(project, wanted(project)[0])
    assert numbers(output) == {"changed": 1, "not asked for": 1}


@pytest.mark.workflow
def test_models_without_numbers_are_not_passed_over(project: Project) -> None:
    table = project.folder / "results/tiny/failures.tsv"
    table.write_text(table.read_text() + "models--b\t./models/b\t\tthe tokenizer fails\n")
    assert "2  1 of them failed, see failures.tsv: models--b" in look(project)


# What is printed


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A hundred models that nobody has looked up."""
    project = copy_clone(tmp_path_factory.mktemp("hundred") / "klmap")
    project.configure(
        texts={"tiny": {"source": "environment"}},
        models=[f"org/model-{number}" for number in range(100)],
    )
    return project


@pytest.mark.workflow
def test_many_jobs_are_counted_not_described(hundred: Project) -> None:
    output = look(hundred)
    assert job_counts(output)["score"] == 100
    assert "jobid:" not in output
    assert paragraphs(output)["tiny"]["new"][1].endswith("org--model-9 and 90 more")
    assert "100 models have to be looked up first: `snakemake preflight`" in output
    assert output.endswith("Every job with its reason: `snakemake -n -p`.\n")
    assert len(output.splitlines()) < 60


@pytest.mark.workflow
def test_whoever_asks_for_the_commands_sees_every_job(hundred: Project) -> None:
    output = look(hundred, "--printshellcmds")
    assert output.count("    jobid: ") == sum(job_counts(output).values()) + 1
    assert "reason: Missing output files" in output
    assert "score.py --card" in output
    assert "snakemake -n -p" not in output


@pytest.mark.workflow
def test_few_jobs_are_described_before_the_summary(project: Project) -> None:
    project.configure(models=["./models/a", "./models/b", "./models/c"])
    output = look(project)
    assert "rule score:" in output
    assert output.rindex("jobid:") < output.index("Texts tiny, 3 models:")


@pytest.mark.workflow
def test_a_job_that_names_all_of_many_models_is_not_described(
    hundred: Project, tmp_path: Path
) -> None:
    project = hundred.copy(tmp_path / "klmap")
    config = configfile.load(project.folder / "config.yaml")
    results = project.folder / "results"
    texts = [results / "tiny" / name for name in ("texts.jsonl", "texts.json")]
    cards = [results / "models" / source / "card.json" for source in config.by_source]
    specs = {model: config.spec("tiny", entry) for model, entry in config.by_slug.items()}
    scores = [
        results / "tiny/scores" / f"{model}.{fingerprint(spec)}.h5" for model, spec in specs.items()
    ]
    for path in (*texts, *cards, *scores):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    output = look(project)
    assert numbers(output) == {"scored already": 100, **ALL_DRAWN}
    assert "jobid:" not in output


@pytest.mark.workflow
def test_what_has_nothing_to_do_with_scores_has_no_summary(hundred: Project) -> None:
    output = hundred.snakemake("--dry-run", "results/tiny/index.tsv").stdout
    assert "rule index:" in output
    assert "Texts" not in output


@pytest.mark.workflow
@pytest.mark.parametrize("mode", ["--dag", "--rulegraph", "--summary", "--list-rules"])
def test_output_for_other_programs_is_left_alone(project: Project, mode: str) -> None:
    project.configure(models=["./models/a"])
    done = project.snakemake("--dry-run", mode)
    assert "Texts tiny" not in done.stdout + done.stderr


@pytest.mark.workflow
def test_silence_is_silence(project: Project) -> None:
    assert "Texts tiny" not in project.snakemake("--dry-run", "--quiet", "all").stdout
    assert "Texts tiny" in project.snakemake("--dry-run", "--quiet").stdout


@pytest.mark.workflow
def test_a_real_run_prints_what_it_always_did(project: Project) -> None:
    project.configure(map={"seed": 1})
    output = project.run()
    assert "rule layout:" in output
    assert "jobid:" in output
    assert "Texts tiny" not in output


# Large configurations


@pytest.fixture
def many(tmp_path: Path) -> Callable[[int], dict[str, Path]]:
    """Makes score files under old settings."""

    def make(number: int) -> dict[str, Path]:
        folder = tmp_path / "results/tiny/scores"
        folder.mkdir(parents=True)
        for index in range(number):
            (folder / f"m{index}.{'0' * 12}.h5").touch()
        return {f"m{index}": folder / f"m{index}.{'1' * 12}.h5" for index in range(number)}

    return make


def test_one_listing_and_a_bounded_number_of_files_tell_about_thousands(
    many: Callable[[int], dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = many(3000)
    opened: list[Path] = []
    listed: list[Any] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))

    def earlier(path: Path) -> dict[str, Any]:
        opened.append(path)
        return {"dtype": "auto"}

    planned = Planned(scores=dict.fromkeys(scores, ""))
    now: dict[str, dict[str, Any]] = {model: {"dtype": "float32"} for model in scores}
    folder = next(iter(scores.values())).parents[1]
    outlook = forecast.look("tiny", folder, planned, scores, {}, now, earlier, {}, {})
    assert listed == [folder / "scores"]
    assert len(opened) == forecast.READ
    groups = {what: len(models) for what, models in outlook.changed.items()}
    assert groups == {"dtype is float32, was auto": 1000, "other settings": 2000}


def test_the_latest_of_several_older_scores_is_compared(
    many: Callable[[int], dict[str, Path]],
) -> None:
    scores = many(1)
    older = scores["m0"].with_name(f"m0.{'2' * 12}.h5")
    older.touch()
    os.utime(older, (1, 1))
    read: list[str] = []
    forecast.look(
        "tiny",
        older.parents[1],
        Planned(scores={"m0": ""}),
        scores,
        {},
        {"m0": {}},
        lambda path: read.append(path.name) or None,
        {},
        {},
    )
    assert read == [f"m0.{'0' * 12}.h5"]


def test_differences_name_the_setting_and_both_values() -> None:
    config = Config.model_validate(
        {"texts": {"tiny": TINY}, "models": [{"id": "org/a", "revision": "v2"}]}
    )
    now = config.spec("tiny", config.models[0])
    then = {**now, "revision": None, "texts": {**now["texts"], "n": 5}}
    assert forecast.differences(then, now) == "revision is v2, was unset; texts: n is unset, was 5"
    assert forecast.differences(now, now) == ""
