"""Efficiency: what finished scores have cost, read once, and what stands out."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from klmap import efficiency, efficiency_table, store_score
from klmap.efficiency import Cost
from klmap.errors import InputError
from tests.project import make_project
from tests.running import Moment, write_score


@pytest.fixture
def now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Moment:
    monkeypatch.chdir(tmp_path)
    return Moment(tmp_path)


def read(gpu_memory_gb: float = 80, most: int | None = None) -> list[Cost]:
    return efficiency.read(Path("results"), gpu_memory_gb, most)[0]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Score files that are opened from now on."""
    opened: list[Path] = []
    builtin = store_score.read_summary

    def count(path: Path) -> Any:
        opened.append(path)
        return builtin(path)

    monkeypatch.setattr(store_score, "read_summary", count)
    return opened


def printed(costs: list[Cost]) -> str:
    return efficiency_table.render(costs, Path("results/efficiency.tsv"))


# One score


def test_a_score_on_two_gpus(now: Moment) -> None:
    write_score(now.add("org/a"), gpus=2, peak_memory=120_000_000_000)
    [cost] = read()
    assert (cost.model, cost.texts, cost.device, cost.gpus) == ("org--a", "tiny", "NVIDIA H200", 2)
    assert (cost.tokens, cost.tokens_per_second) == (3_600, 120)
    assert cost.tflops == pytest.approx(2 * 7e9 * 120 / 1e12)
    assert (cost.seconds, cost.scoring_seconds, cost.startup_seconds) == (60, 30, 20)
    assert cost.gpu_hours == pytest.approx(2 * 60 / 3600)
    assert cost.idle_hours == pytest.approx(2 * 30 / 3600)
    assert (cost.memory, cost.asked_memory, cost.share) == (120e9, 160e9, 0.75)


def test_a_score_on_a_cpu_asks_for_no_gpu(now: Moment) -> None:
    write_score(now.add("org/a"), gpus=0, device="a CPU")
    [cost] = read()
    assert (cost.gpu_hours, cost.asked_memory, cost.share) == (0, 0, None)
    assert cost.idle_hours == pytest.approx(30 / 3600)


def test_idle_experts_do_no_work(now: Moment) -> None:
    write_score(now.add("org/a", active_parameters=1_000_000_000))
    [cost] = read()
    assert cost.parameters == 7_000_000_000
    assert cost.tflops == pytest.approx(2 * 1e9 * 120 / 1e12)


def test_a_job_that_went_on_from_another_one_scored_no_longer_than_it_ran(now: Moment) -> None:
    write_score(now.add("org/a"), seconds=10.0)
    [cost] = read()
    assert (cost.scoring_seconds, cost.idle_hours) == (10, 0)


def test_a_failed_score_costs_nothing_and_is_counted(now: Moment) -> None:
    write_score(now.add("org/a"), status="failed", error="no weights")
    write_score(now.add("org/b"))
    assert "1 finished, 1 failed for good" in printed(read())


def test_a_score_whose_card_is_gone_has_no_size(now: Moment) -> None:
    write_score(now.add("org/a", card=False))
    [cost] = read()
    assert (cost.parameters, cost.tflops, cost.gpu_hours) == (0, 0, pytest.approx(60 / 3600))


# The table


def test_a_file_is_read_once(now: Moment, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [now.add(f"org/{name}") for name in "abc"]
    for item in items[:2]:
        write_score(item)
    opened = counted(monkeypatch)
    first = read()
    assert len(opened) == 2
    assert [cost.score for cost in read()] == [cost.score for cost in first]
    assert len(opened) == 2
    write_score(items[2])
    write_score(items[0], seconds=90.0)
    os.utime(items[0].score, (2e9, 2e9))
    assert sorted(cost.seconds for cost in read()) == [60, 60, 90]
    assert sorted(path.name[:6] for path in opened[2:]) == ["org--a", "org--c"]


def test_a_file_that_was_removed_leaves_the_table(now: Moment) -> None:
    item = now.add("org/a")
    write_score(item)
    read()
    item.score.unlink()
    assert read() == []
    assert len(Path("results/efficiency.tsv").read_text().splitlines()) == 1


def test_memory_is_held_against_what_is_configured_now(now: Moment) -> None:
    write_score(now.add("org/a"))
    assert read(80)[0].share == 0.5
    assert read(40)[0].share == 1.0


def test_one_call_opens_no_more_than_it_may(now: Moment) -> None:
    for index in range(5):
        item = now.add(f"org/{index}")
        write_score(item)
        os.utime(item.score, (1e9 + index, 1e9 + index))
    costs, left = efficiency.read(Path("results"), 80, 2)
    assert sorted(cost.model for cost in costs) == ["org--3", "org--4"], "the newest first"
    assert left == 3
    assert efficiency.read(Path("results"), 80, 2)[1] == 1
    costs, left = efficiency.read(Path("results"), 80, 2)
    assert (len(costs), left) == (5, 0)


@pytest.mark.parametrize("content", [b"", b"model\n", b"\xff", b"model\tscore\na\tb\n"])
def test_a_broken_table_is_made_anew(now: Moment, content: bytes) -> None:
    write_score(now.add("org/a"))
    expected = read()
    Path("results/efficiency.tsv").write_bytes(content)
    assert read() == expected


def test_broken_files_are_left_out(now: Moment) -> None:
    write_score(now.add("org/a"))
    now.add("org/b").score.write_bytes(b"nonsense")
    now.add("org/c").score.mkdir()
    now.add("org/d").score.symlink_to("nowhere")
    write_score(now.add("org/e"), seconds="long")
    assert [cost.model for cost in read()] == ["org--a"]


def test_a_summary_of_what_is_no_score_is_refused(now: Moment) -> None:
    item = now.add("org/a")
    write_score(item)
    known, tokens = store_score.read_summary(item.score)
    assert (known["model"], known["spec"]["id"], tokens) == ("org--a", "org/a", 3_600)
    item.score.write_bytes(item.score.read_bytes()[:1000])
    with pytest.raises(InputError, match="remove it and run again"):
        store_score.read_summary(item.score)


def test_the_most_wasteful_come_first(now: Moment) -> None:
    for name, gpus, seconds in (("a", 1, 40.0), ("b", 4, 60.0), ("c", 1, 100.0)):
        write_score(now.add(f"org/{name}"), gpus=gpus, seconds=seconds)
    read()
    with Path("results/efficiency.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["model"] for row in rows] == ["org--b", "org--c", "org--a"]
    assert float(rows[0]["gpu_hours"]) == pytest.approx(4 * 60 / 3600, rel=1e-5)


# What is printed


def test_totals_by_device(now: Moment) -> None:
    write_score(now.add("org/a"), seconds=7_200.0)
    write_score(now.add("org/b"), gpus=2, seconds=3_600.0)
    write_score(now.add("org/c"), gpus=0, device="a CPU", seconds=1_800.0)
    text = printed(read())
    devices = text.partition("by device")[2].splitlines()
    assert next(line for line in devices if "H200" in line).split()[2:5] == ["2", "4.0", "GPU"]
    assert next(line for line in devices if "a CPU" in line).split()[2:5] == ["1", "0.5", "CPU"]
    assert "GPU hours     4.0, 99% of them for loading and error bars" in text
    assert "not in the score files of GPUs" in text


def test_speed_of_a_device_is_over_all_its_scores(now: Moment) -> None:
    # 30 s at 1.68 TFLOP/s, 60 s at half of that: two thirds of it on average.
    write_score(now.add("org/a"), seconds=30.0)
    write_score(now.add("org/b"), seconds=60.0, tokens_per_second=60.0)
    costs = read()
    [line] = efficiency_table._devices(costs, 100)[1:]
    assert "100%  1 TFLOP/s" in line
    assert sum(cost.tflops * cost.scoring_seconds for cost in costs) / 90 == pytest.approx(1.12)


def test_only_what_stands_out_is_listed(now: Moment) -> None:
    for index in range(efficiency_table.LISTED + 3):
        write_score(
            now.add(f"org/m{index:02}"), seconds=60.0 + index, tokens_per_second=200 - index
        )
    text = printed(read())
    wasteful, slowest = text.partition("slowest")[::2]
    assert wasteful.count("org--m") == slowest.count("org--m") == efficiency_table.LISTED
    assert "org--m00" not in wasteful
    assert "org--m00" not in slowest


def test_without_scores_it_says_so() -> None:
    assert "scores        0 finished" in printed([])


def test_long_names_stay_within_the_terminal(now: Moment) -> None:
    write_score(now.add("org/" + "a-very-long-name-of-a-model-" * 3), device="A GPU " * 8)
    assert max(map(len, printed(read()).splitlines())) <= 100


# With a real Snakemake


@pytest.mark.workflow
def test_the_rule_prints_what_scores_have_cost(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    assert "0 finished" in project.snakemake("efficiency", "--cores", "1").stdout
    project.run("scores")
    done = project.snakemake("efficiency", "--cores", "1")
    assert "scores        2 finished" in done.stdout
    assert "models--a" in done.stdout
    rows = (project.folder / "results/efficiency.tsv").read_text().splitlines()
    assert len(rows) == 3
    shutil.rmtree(project.folder / "results")
    assert "0 finished" in project.snakemake("efficiency", "--cores", "1").stdout
