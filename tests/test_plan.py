"""What follows from a configuration alone: names of files, turns, command lines, allocations."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from klmap import arguments, plan_tables, products, turns, updates
from klmap.cards import Card
from klmap.config import Config, fingerprint
from klmap.errors import ConfigError
from klmap.plan import Plan
from klmap.submission import Submission

MODELS = [
    "org/first",
    {"id": "org/first", "quantization": "int8"},
    {"id": "org/second", "revision": "step10", "family": "a b"},
    {"id": "./models/own", "name": "own"},
    "demo/gpt2-base@step150",
]


def planned(folder: Path, models: list[Any] = MODELS, **others: Any) -> Plan:
    """A plan whose results lie in a folder."""
    keys = {"texts": {"tiny": {"source": "environment"}}, **others}
    config = Config.model_validate({"results": str(folder / "results"), "models": models, **keys})
    return Plan(config, Path("config.yaml"))


def place(path: str, age: int, content: str = "") -> None:
    """A file that was written some seconds ago."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)
    os.utime(path, (1_000_000_000 - age, 1_000_000_000 - age))


def test_a_score_is_named_by_the_settings_that_decide_its_numbers(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    for model, entry in plan.config.by_slug.items():
        digits = fingerprint(plan.config.spec("tiny", entry))
        assert plan.score("tiny", model) == f"{plan.results}/tiny/scores/{model}.{digits}.h5"
        assert plan.entry("tiny", model, digits) is entry


def test_a_job_whose_settings_were_edited_is_told_both_names(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    with pytest.raises(
        ConfigError, match=r"config\.yaml: this job is to write .*0{12}\.h5"
    ) as told:
        plan.entry("tiny", "own", "0" * 12)
    assert plan.score("tiny", "own") in str(told.value)


@pytest.mark.parametrize(
    ("look_up", "named"),
    [
        (lambda plan: plan.entry("tiny", "gone", "0" * 12), "no model 'gone' for the texts 'tiny'"),
        (lambda plan: plan.entry("gone", "own", "0" * 12), "no model 'own' for the texts 'gone'"),
        (lambda plan: plan.source("gone"), "no model is filed under 'gone'"),
        (lambda plan: plan.release("gone"), "no release 'gone'; configured: none"),
        (lambda plan: plan.recipe("gone"), "no text set 'gone'; configured: tiny"),
        (lambda _: planned(Path(), ["demo/nothing"]), "the demo zoo has no such model"),
    ],
)
def test_what_is_not_configured_is_named(tmp_path: Path, look_up: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        look_up(planned(tmp_path))


@pytest.mark.parametrize(
    ("card", "manifest", "score", "finished"),
    [(2, 2, 1, True), (1, 1, 1, True), (0, 2, 1, False), (2, 0, 1, False), (2, None, 1, False)],
)
def test_a_finished_score_is_no_older_than_card_and_manifest(
    tmp_path: Path, card: int, manifest: int | None, score: int, finished: bool
) -> None:
    plan = planned(tmp_path)
    place(plan.card("org--first"), card)
    place(plan.score("tiny", "org--first"), score)
    if manifest is not None:
        place(f"{plan.results}/tiny/texts.json", manifest)
    assert plan.is_finished("tiny", "org--first") is finished
    assert plan.is_partly_finished("org--first") is finished
    assert not plan.is_partly_finished("models--own")


def test_looking_up_goes_before_scoring_before_fetching_each_as_configured(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    sources = list(plan.places)
    models = ["org--first", *list(plan.config.by_slug)[2:]]
    ranks = [
        turns.first(plan),
        *(turns.resolve(plan, source) for source in sources),
        *(turns.score(plan, model) for model in models),
        *(turns.fetch(plan, source) for source in sources),
    ]
    assert ranks == sorted(set(ranks), reverse=True)
    assert turns.score(plan, "org--first") == turns.score(plan, "org--first+int8")


def test_tables_have_one_line_for_each_model_source_and_score(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    rows = [row.split("\t") for row in plan_tables.index_rows(plan, "tiny")]
    by_model = {row[0]: row[1:] for row in rows}
    assert list(by_model) == sorted(plan.config.by_slug)
    assert by_model["org--second@step10"][2:] == ["org/second", "step10", "a b", ""]
    assert by_model["org--first+int8"][-1] == "int8"
    sources = [row.split("\t")[0] for row in plan_tables.source_rows(plan)]
    assert sources == sorted(plan.config.by_source)
    assert "demo--gpt2-base@step150\tdemo/gpt2-base\tstep150\t" + (
        f"{plan.results}/models/_zoo/runs/gpt2-base/step150"
    ) in plan_tables.source_rows(plan)
    quantized = f"org--first+int8\torg--first\ttiny\t{plan.score('tiny', 'org--first+int8')}"
    assert f"{quantized}\tauto\tint8\t" in plan_tables.score_rows(plan)


def test_only_who_runs_code_of_others_finds_a_column_for_it(tmp_path: Path) -> None:
    opted = {"id": "org/own-code", "revision": "0" * 40, "remote_code": True}
    assert "remote_code" not in plan_tables.source_header(planned(tmp_path))
    plan = planned(tmp_path, [*MODELS, opted])
    assert plan_tables.source_header(plan).endswith("\tremote_code")
    flags = {row.split("\t")[1]: row.split("\t")[-1] for row in plan_tables.source_rows(plan)}
    assert {name for name, flag in flags.items() if flag == "true"} == {"org/own-code"}


RELEASE = {"texts": "tiny", "loglik": "L.tsv", "models": 10, "allow": ["dtype"]}


def test_analyses_of_benchmark_scores_wait_for_some(tmp_path: Path) -> None:
    asked = {"predict": {}, "leakage": {}, "axes": {}}
    without = products.analysis_files(planned(tmp_path, analyses=asked))
    assert {Path(name).parent.name for name in without} == {"axes"}
    given = planned(tmp_path, analyses={**asked, "benchmarks": ["own.tsv"]})
    assert {Path(name).parent.name for name in products.analysis_files(given)} == set(asked)
    assert products.predictions_on(given, "tiny") == [
        f"{given.results}/tiny/predict/predictions.tsv"
    ]


def test_what_needs_all_pairs_is_left_out_above_the_limit(tmp_path: Path) -> None:
    pairs = {"tree.nwk", "domains.tsv", "ellipses.tsv", "dendrogram.png", "heatmap.svg"}
    limits = {"dense_limit": 15, "ellipses": True}
    few = planned(tmp_path, published={"lab": RELEASE}, map=limits)
    many = planned(tmp_path, [*MODELS, "org/one-more"], published={"lab": RELEASE}, map=limits)
    assert pairs <= {Path(name).name for name in products.map_files(few)}
    assert not pairs & {Path(name).name for name in products.map_files(many)}
    assert set(products.figure_names(few)) <= set(products.FIGURE_TITLES)


def test_comparisons_may_name_their_text_sets(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        texts={"tiny": {"source": "environment"}, "mine": {"source": "file", "path": "a"}},
        analyses={"contrast": {"comparisons": {
            "here": {"first": ["a"], "second": ["b"], "texts": "tiny"}, "there": {"first": ["a"]},
        }}},
    )  # fmt: skip
    assert '"here"' in arguments.comparisons(plan, "tiny")
    assert arguments.comparisons(plan, "mine") == '{"there": {"first": ["a"], "second": null}}'
    files = products.analysis_files(plan)
    assert f"{plan.results}/mine/contrast/texts.tsv" in files


def test_a_text_set_without_comparisons_has_no_contrast(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        texts={"tiny": {"source": "environment"}, "mine": {"source": "file", "path": "a"}},
        analyses={"contrast": {"comparisons": {"here": {"first": ["a"], "texts": ["tiny"]}}}},
    )
    files = products.analysis_files(plan)
    assert f"{plan.results}/tiny/contrast/texts.tsv" in files
    assert not [path for path in files if "/mine/" in path]


def test_arguments_are_the_same_to_the_letter(tmp_path: Path) -> None:
    """Most of these are params: another letter would draw every map again."""
    plan = planned(
        tmp_path,
        texts={"tiny": {"source": "environment"}, "mine": {"source": "file", "path": "a", "n": 9}},
        published={"lab": RELEASE},
        hardware={"mirrors": ["/data/a b"], "disk_budget_gb": 120.5},
        map={"stable": "fixed", "perplexity": 12.5},
    )
    config = plan.config
    assert arguments.layout(config) == (
        "--method tsne --metric euclidean --perplexity 12.5 --iterations 1000 --seed 42 "
        "--dense-limit 5000 --fixed"
    )
    assert arguments.predict(config) == "--features Q L --folds 5 --seeds 5 --curve true"
    assert arguments.axes(config) == "--components 10 --ends 10"
    assert arguments.robustness(config) == "--splits 50 --draws 20 --seed 42"
    assert arguments.comparisons(plan, "tiny") == "{}"
    assert arguments.others(plan, "mine") == f"--others tiny={config.results}/tiny/matrix.h5"
    assert arguments.clip(plan, "mine") == ""
    report = f"{config.results}/published/lab/report.json"
    assert arguments.clip(plan, "tiny") == f"--clip-from {report}"
    assert arguments.allow(plan, "tiny") == "--allow dtype"
    assert arguments.identity(plan, "org--second@step10") == "--id org/second --revision step10"
    assert arguments.identity(plan, "models--own") == "--id ./models/own --folder models/own"
    assert arguments.fetch(config) == ("--budget-gb 120.5 --on-failure stop --mirrors '/data/a b'")
    assert arguments.score(config) == "--on-failure stop --keep-tokens false --batch-tokens auto"
    assert arguments.preflight(plan) == (
        "--texts mine=9,1024 tiny=600,1024 --disk-budget-gb 120.5 --gpu-memory-gb 80 --max-gpus 4"
    )


def looked_up(plan: Plan, parameters: int = 100_000_000) -> None:
    """Cards of all models of a plan."""
    for source in plan.config.by_source:
        card = Card(id=source, commit="0" * 40, parameters=parameters, bytes=2 * parameters)
        place(plan.card(source), 0, json.dumps(asdict(card)))


SIX = [f"org/model-{number}" for number in range(6)]


def test_neighbours_share_an_allocation_once_they_are_looked_up(tmp_path: Path) -> None:
    plan = planned(tmp_path, SIX)
    submission = Submission(plan, lambda: {"tiny": 4})
    assert submission.blocks("tiny") == {}
    looked_up(plan)
    found = submission.blocks("tiny")
    assert [found[model] for model in plan.config.by_slug] == [
        *[("tiny_tiny_0", "tiny")] * 4,
        *[("tiny_tiny_1", "tiny")] * 2,
    ]


def test_a_class_too_large_for_the_disk_is_left_out(tmp_path: Path) -> None:
    asked = {"cpu": 16, "tiny": 16, "small": 4}
    for budget, classes in ((500, asked), (50, {"cpu": 16, "tiny": 16}), (20, {"cpu": 16})):
        plan = planned(tmp_path, SIX, hardware={"disk_budget_gb": budget})
        assert Submission(plan, lambda: asked).sharing() == classes


def test_a_model_whose_fetch_failed_keeps_no_other_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, SIX)
    looked_up(plan)
    place("logs/fetch/org--model-1.log", 0, "10:00 INFO begins\n10:01 ERROR gone\n")
    place("logs/fetch/org--model-2.log", 0, "10:01 ERROR slow\n10:02 INFO arrived\n")
    found = Submission(plan, lambda: {"tiny": 16}).blocks("tiny")
    assert set(plan.config.by_slug) - set(found) == {"org--model-1"}


def test_only_too_little_gpu_memory_asks_for_more_gpus(tmp_path: Path) -> None:
    plan = planned(tmp_path, SIX, hardware={"max_gpus": 2})
    looked_up(plan)
    submission = Submission(plan, dict)
    log = str(tmp_path / "score.log")
    asked = [submission.gpus("tiny", "org--model-0", attempt, log) for attempt in (1, 2)]
    place(log, 0, "10:00 ERROR out of GPU memory\n")
    asked += [submission.gpus("tiny", "org--model-0", attempt, log) for attempt in (1, 2, 3)]
    assert asked == [1, 1, 1, 2, 2]


@dataclass
class Job:
    """As much of a job as notes need."""

    output: list[str]


def test_a_failed_update_leaves_the_file_as_it_is_and_no_note(tmp_path: Path) -> None:
    class Backup:
        """As Snakemake's: copies files."""

    class Notes(Backup):
        """As Snakemake's: keeps notes."""

        def __init__(self) -> None:
            self.noted: list[str] = []
            self.cleaned: list[str] = []

        async def finished(self, job: Job) -> None:
            self.noted += job.output

        def cleanup(self, job: Job) -> None:
            self.cleaned += job.output

    updates.leave_alone(Backup, Notes)
    notes: Any = Notes()
    path = tmp_path / "score.h5"
    place(str(path), 5, "before")
    noted = path.stat()
    notes.backup_output(path)
    assert notes.restore_output(path)
    asyncio.run(notes.finished(Job([str(path)])))
    assert (notes.noted, notes.cleaned) == ([], [str(path)])
    assert (path.read_text(), path.stat().st_mtime_ns) == ("before", noted.st_mtime_ns)
    assert list(tmp_path.iterdir()) == [path]
    asyncio.run(notes.finished(Job([str(path)])))
    assert notes.noted == [str(path)]
