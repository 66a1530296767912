"""Training runs: which checkpoints are one, which texts go, and what tables and figures say."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from klmap import (
    figure_diffusion,
    figure_trajectories,
    figure_trajectory_paths,
    files,
    layout,
    store,
    style,
    trajectories,
)
from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.gathered import Gathered
from klmap.models_table import Model, write_models
from klmap.trajectories import Settings, Trajectory, Weights
from tests.mapfiles import Folder, InMemory, everything

SCRIPT = Path(__file__).parents[1] / "scripts" / "trajectories.py"
QUICK = Settings(from_step=1000, bootstrap=100, ahead=4)
STEPS = (0, 500, *range(1000, 9000, 1000))


def model(revision: str, id_: str = "org/a", **more: object) -> Model:
    name = f"{id_.replace('/', '--')}@{revision}" if revision else id_.replace("/", "--")
    return Model(f"{name}{more.get('variant', '')}", id=id_, revision=revision, **more)  # type: ignore[arg-type]


def gathered(models: list[Model], values: Floats, noise: float = 0.01, **more: object) -> Gathered:
    texts = values.shape[1]
    n_bytes = np.random.default_rng(0).integers(200, 1000, texts).astype(np.int32)
    return Gathered(
        **{
            "models": models, "on_map": np.ones(len(models), np.bool_),
            "noise": np.full(len(models), noise), "domain": ["x"] * texts, "n_bytes": n_bytes,
            "mean_bytes": float(n_bytes.mean()), "design": None, "clip_threshold": -1e9,
            "parts": [InMemory(values, ["x"] * texts)],
            "places": [(0, row) for row in range(len(models))], **more,
        }
    )  # type: ignore[arg-type]  # fmt: skip


def walk(rows: int, texts: int = 200, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return np.asarray(
        rng.normal(-700, 90, texts) + np.cumsum(rng.normal(0, 9, (rows, texts)), axis=0)
    )


def one_run(final: str = "", seed: int = 0, texts: int = 200) -> Gathered:
    """Checkpoints at STEPS, and final weights that are none, the last step's or later."""
    models = [model(f"step{step}") for step in STEPS]
    values = walk(len(STEPS) + 1, texts, seed)
    if not final:
        return gathered(models, values[:-1])
    if final == "same":
        values[-1] = values[-2]
    return gathered([*models, model("")], values)


def measured(found: Gathered, weights: dict[str, Weights] | None = None) -> Trajectory:
    (run,) = trajectories.measure(found, weights or {}, QUICK)
    return run


def sketches(found: Gathered, seed: int = 0, kind: str = "a") -> dict[str, Weights]:
    rng = np.random.default_rng(seed)
    values = np.cumsum(rng.normal(0, 1, (len(found.models), 50)), axis=0) + rng.normal(0, 99, 50)
    return {
        item.model: Weights(row, float(np.linalg.norm(row)), kind)
        for item, row in zip(found.models, values, strict=True)
    }


def test_outlier_texts_are_those_that_jump_the_most_from_the_step_on() -> None:
    found = one_run()
    run = measured(found)
    values = found.loglik(range(len(STEPS)))
    late = np.array([abs(b - a) for a, b in itertools.pairwise(values[2:])])
    score = late.max(axis=0)
    slow = sorted(range(200), key=lambda text: -score[text])[:6]  # 3 % of 200
    assert [outlier.column for outlier in run.dropped] == slow
    assert run.dropped[0].jump == score.max()
    assert run.dropped[0].move == 2 + late[:, slow[0]].argmax()
    assert run.texts == 194


def test_kls_are_of_the_texts_that_are_left_with_their_own_bytes() -> None:
    found = one_run()
    run = measured(found)
    kept = np.delete(np.arange(200), [outlier.column for outlier in run.dropped])
    values = found.loglik(range(len(STEPS)))[:, kept]
    mean_bytes = found.n_bytes[kept].mean()
    assert run.mean_bytes == pytest.approx(mean_bytes)
    assert len(run.moves) == len(STEPS) - 1
    for move in run.moves:
        d = values[move.second] - values[move.first]
        d -= d.mean()
        unit = 2 * mean_bytes * math.log(2)
        assert move.kl == pytest.approx((d**2).mean() / unit)
        se = math.sqrt(((d**4).mean() - (d**2).mean() ** 2) / len(d)) / unit
        assert move.se == pytest.approx(se)
        assert move.floor == pytest.approx(2 * 0.01**2 / unit)
        assert move.rate == pytest.approx(move.kl / (STEPS[move.second] - STEPS[move.first]))


def test_moves_before_the_step_are_told_but_do_not_count() -> None:
    run = measured(one_run())
    assert [run.counts(move) for move in run.moves] == [False, False, *[True] * 7]
    assert run.likelihood is not None
    assert {start.row for start in run.likelihood.starts} == {2, 3, 4, 5, 6}


def test_clipped_log_likelihoods_are_what_counts() -> None:
    found = one_run()
    clipped = Gathered(**{**vars(found), "clip_threshold": -700.0})
    values = np.maximum(found.raw(range(len(STEPS))), -700)
    run = measured(clipped)
    jumps = np.abs(np.diff(values[2:], axis=0)).max(axis=0)
    assert run.dropped[0].jump == jumps.max()


def test_final_weights_that_are_the_last_step_are_left_out() -> None:
    run, without = measured(one_run("same")), measured(one_run())
    assert run.final == "same"
    assert [move.kl for move in run.moves] == [move.kl for move in without.moves]
    assert without.final == ""


def test_final_weights_that_are_not_end_the_last_move_without_a_speed() -> None:
    run, without = measured(one_run("later")), measured(one_run())
    assert run.final == "later"
    last = run.moves[-1]
    assert last.kl > 0
    assert math.isinf(last.elapsed)
    assert math.isnan(last.rate)
    assert run.likelihood is not None
    assert without.likelihood is not None
    assert len(run.likelihood.starts) == len(without.likelihood.starts)


def test_sketches_tell_final_weights_from_the_last_step_where_noise_cannot() -> None:
    found = Gathered(**{**vars(one_run("later")), "noise": np.full(len(STEPS) + 1, 50.0)})
    assert measured(found).final == "same"
    weights = sketches(found)
    assert measured(found, weights).final == "later"
    names = [item.model for item in found.models]
    weights[names[-1]] = weights[names[-2]]
    assert measured(found, weights).final == "same"


def test_a_run_has_three_checkpoints_at_least_and_hidden_states_are_none() -> None:
    models = [
        *(model(f"step{n}", "org/two") for n in (1, 2)),
        *(model(f"step{n}", "org/three") for n in (30, 4, 2)),
        *(model(f"step{n}", "org/lens", variant="layer3", layer=3) for n in (1, 2, 3, 4)),
        *(model(f"step{n}", "org/three", variant="int8") for n in (1, 2)),
    ]
    (run,) = trajectories.find(models)
    assert run.id == "org/three"
    assert [models[row].revision for row in run.rows] == ["step2", "step4", "step30"]


def test_stages_steps_and_branches_are_not_mixed_up() -> None:
    revisions = [
        "stage1-step1000-tokens5B", "stage1-step2000-tokens9B", "stage1-step3000-tokens13B",
        "stage2-ingredient1-step1000-tokens3B", "chat", "main", "stage1-step2000-tokens9B-2",
    ]  # fmt: skip
    models = [model(revision) for revision in revisions]
    (run,) = trajectories.find(models)
    assert [revisions[row] for row in run.rows] == [*revisions[:3], "main"]


def test_final_weights_may_be_pinned_by_commit_and_other_branches_are_no_checkpoints() -> None:
    commit = "3f9a" * 10
    revisions = [commit, "v1.0", "step10", "step20", "gptq-4bit", "gptq-8bit"]
    (run,) = trajectories.find([model(revision) for revision in revisions])
    assert [revisions[row] for row in run.rows] == ["step10", "step20", commit]
    branches = ["v1.0", "v1.1", "gptq-4bit", "gptq-8bit", commit, "07bc" * 10, ""]
    assert trajectories.find([model(revision) for revision in branches]) == []


def test_revisions_that_are_left_out_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    trajectories.find([model(name) for name in ("step1", "step2", "v1.0", "chat", "")])
    assert "2 revisions are no steps" in caplog.text


def test_runs_of_other_ids_and_variants_change_nothing() -> None:
    alone = measured(one_run())
    found = one_run()
    others = [model(f"step{n}", "org/b") for n in (1000, 2000, 3000)]
    others += [model(f"step{n}", variant="int8") for n in (1000, 2000, 3000)]
    both = gathered(
        [*others, *found.models], np.vstack([10 * walk(6, seed=5), found.raw(range(10))])
    )
    runs = trajectories.measure(both, {}, QUICK)
    assert [run.name for run in runs] == ["org/a", "org/a int8", "org/b"]
    assert runs[0].dropped == alone.dropped
    assert runs[0].moves == alone.moves


def test_few_late_checkpoints_leave_all_texts_in(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (run,) = trajectories.measure(one_run(), {}, Settings(from_step=8000))
    assert run.texts == 200
    assert not run.dropped
    assert run.likelihood is None
    assert "too few checkpoints" in run.settled.words
    assert "all texts count" in caplog.text


def test_weight_distances_are_those_of_the_sketches() -> None:
    found = one_run("later")
    weights = sketches(found)
    del weights[found.models[4].model]
    run = measured(found, weights)
    values = [weights[item.model].values if item.model in weights else None
              for item in found.models]  # fmt: skip
    for n, (first, second) in enumerate(itertools.pairwise(values)):
        if first is None or second is None:
            assert math.isnan(run.weight_distances[n])
        else:
            exact = np.linalg.norm(second - first) / np.linalg.norm(first)
            assert run.weight_distances[n] == pytest.approx(exact)
    assert run.weights is not None
    assert [start.row for start in run.weights.starts] == [2, 3, 5, 6]
    start = run.weights.starts[0]
    assert start.elapsed[0] == 1000
    norm = weights[found.models[2].model].norm
    squared = float(((values[3] - values[2]) ** 2).sum())  # type: ignore[operator]
    assert start.squares[0] == pytest.approx(squared / norm**2)


def test_weights_that_walk_at_random_have_exponent_one() -> None:
    models = [model(f"step{step}") for step in range(1000, 101_000, 1000)]
    found = gathered(models, walk(len(models), 50))
    rng = np.random.default_rng(1)
    values = np.cumsum(rng.normal(0, 1, (len(models), 4093)), axis=0)
    weights = {m.model: Weights(v, 1.0, "a") for m, v in zip(models, values, strict=True)}
    run = measured(found, weights)
    assert run.weights is not None
    assert run.weights.low < 1 < run.weights.high
    assert run.weights.exponent == pytest.approx(1, abs=0.03)


def test_sketches_of_other_tensors_are_not_compared() -> None:
    found = one_run()
    weights = sketches(found)
    odd = found.models[6].model
    weights[odd] = Weights(weights[odd].values, 1.0, "other tensors")
    run = measured(found, weights)
    assert np.flatnonzero(np.isnan(run.weight_distances)).tolist() == [5, 6]
    assert run.weights is not None
    assert 6 not in {start.row for start in run.weights.starts}


def test_selections_are_refused() -> None:
    with pytest.raises(InputError, match="selection"):
        trajectories.measure(gathered([model("step1")], walk(1), design=everything(200)), {}, QUICK)


def many(runs: int, steps: list[int], final: bool = True, noise: float = 0.01) -> Gathered:
    models = [
        model(f"step{step}" if step >= 0 else "", f"org/run-{n}")
        for n in range(runs)
        for step in [*steps, *([-1] if final else [])]
    ]
    values = np.vstack([walk(len(models) // max(runs, 1), 60, n) for n in range(runs)])
    return gathered(models, values, noise)


def texts_of(figure: Figure) -> str:
    found = [item.get_text() for axes in figure.axes for item in axes.texts]
    return " ".join([*found, *(item.get_text() for item in figure.texts)])


def drawn(found: Gathered, runs: list[Trajectory]) -> list[Figure]:
    rng = np.random.default_rng(0)
    places = [layout.Place(m.model, *rng.normal(0, 9, 2), "tsne-euclidean") for m in found.models]
    with mpl.rc_context(style.RC):
        return [
            figure_trajectories.draw(runs, "prose"),
            figure_diffusion.draw(runs, QUICK, "prose"),
            figure_trajectory_paths.draw(runs, found.models, places, "prose"),
        ]


@pytest.mark.parametrize(
    ("count", "steps"),
    [(2, [1000, 2000, 3000]), (1, [2000]), (16, [1, 2, *range(1000, 9000, 1000)])],
)
def test_figures_stay_inside_their_edges(count: int, steps: list[int]) -> None:
    found = many(count, [0, *steps])
    runs = trajectories.measure(found, sketches(found), QUICK)
    assert len(runs) == count
    for figure in drawn(found, runs):
        figure.canvas.draw()
        width, height = figure.get_size_inches() * figure.dpi
        for item in figure.texts:
            box = item.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= width, item.get_text()
            assert box.y0 >= 0
            assert box.y1 <= height


def test_the_figure_of_moves_says_what_the_hints_say() -> None:
    found = many(2, [1000 * n for n in range(1, 9)], noise=60.0)
    runs = trajectories.measure(found, {}, QUICK)
    assert runs[0].settled.at == 1000
    (figure, *_) = drawn(found, runs)
    said = texts_of(figure)
    assert "within noise from step 1,000 on" in said
    assert "without 2 outlier texts" in said
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "^"]
    assert any(line.get_xdata()[0] == 1000 for line in marks)  # type: ignore[index]


def test_more_runs_than_have_room_are_counted() -> None:
    found = many(20, [1000, 2000, 3000, 4000, 5000])
    figure = drawn(found, trajectories.measure(found, {}, QUICK))[0]
    assert "more: see runs.tsv" in texts_of(figure)


def test_figures_say_why_they_are_empty() -> None:
    alone = gathered([model("step1"), model("step2")], walk(2))
    for figure in drawn(alone, trajectories.measure(alone, {}, QUICK)):
        assert "3 checkpoints" in texts_of(figure)
    short = many(1, [1000, 2000, 3000])
    said = texts_of(drawn(short, trajectories.measure(short, {}, QUICK))[1])
    assert "No checkpoint has three later ones" in said


def test_runs_off_the_map_have_no_path() -> None:
    found = many(1, [1000, 2000, 3000])
    runs = trajectories.measure(found, {}, QUICK)
    figure = figure_trajectory_paths.draw(runs, [], [], "prose")
    assert "on_map: false" in texts_of(figure)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A finished text set with one run whose weights were sketched, and its layout."""
    made = Folder(tmp_path / "demo", 60)
    values = walk(7, 60)
    rng = np.random.default_rng(3)
    sketch = np.cumsum(rng.normal(0, 1, (7, 40)), axis=0)
    for n, step in enumerate([*range(1000, 7000, 1000), -1]):
        name, revision = ("org--a", "") if step < 0 else (f"org--a@step{step}", f"step{step}")
        norm = float(np.linalg.norm(sketch[n]))
        said = {"method": "m", "size": 40, "layout": "x", "norm": norm, "parameters": 9}
        item = made.add(name, values[n], id="org/a", revision=revision,
                        attributes={"weights": said})  # fmt: skip
        if step != 4000:
            made.write(item, weights_sketch=sketch[n])
    made.add("org--other")
    found = made.collect()
    store.write_matrix(made.root / "matrix.h5", found.matrix)
    write_models(made.root / "models.tsv", found.models)
    rows = [(m.model, *rng.normal(0, 9, 2), "tsne-euclidean") for m in found.models]
    files.write_tsv(made.root / "layout.tsv", ("model", "x", "y", "method"), rows)
    return made


def run(folder: Folder, output: Path) -> subprocess.CompletedProcess[str]:
    root = folder.root
    return subprocess.run(
        [
            sys.executable, str(SCRIPT), "--matrix", str(root / "matrix.h5"),
            "--models", str(root / "models.tsv"), "--index", str(folder.index),
            "--scores", str(folder.scores), "--layout", str(root / "layout.tsv"),
            "--texts", str(folder.texts), "--from-step", "1000", "--ahead", "3",
            "--bootstrap", "100", "--drop", "0.05", "--offmap", "--offmap-models",
            "--folder", str(output),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_writes_tables_and_figures_that_stay_the_same(
    folder: Folder, tmp_path: Path
) -> None:
    for output in ("one", "two"):
        done = run(folder, tmp_path / output)
        assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    figures = [
        f"{name}.{end}" for name in ("steps", "exponents", "paths") for end in ("png", "svg")
    ]
    assert names == sorted([*figures, "runs.tsv", "steps.tsv", "exponents.tsv", "texts.tsv"])
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    (row,) = files.read_tsv(tmp_path / "one" / "runs.tsv")
    assert (row["run"], row["checkpoints"], row["final"]) == ("org/a", "7", "later")
    assert (row["first_step"], row["last_step"], row["dropped"]) == ("1000", "6000", "3")
    steps = files.read_tsv(tmp_path / "one" / "steps.tsv")
    assert [item["elapsed"] for item in steps] == ["1000"] * 5 + [""]
    assert [bool(item["weight_distance"]) for item in steps] == [1, 1, 0, 0, 1, 1]
    exponents = files.read_tsv(tmp_path / "one" / "exponents.tsv")
    spaces = [(item["space"], item["start"], item["points"]) for item in exponents]
    assert spaces == [
        ("likelihood", "all", "3"), ("likelihood", "1000", "3"), ("likelihood", "2000", "3"),
        ("likelihood", "3000", "3"), ("weights", "all", "2"), ("weights", "1000", "3"),
        ("weights", "2000", "3"),
    ]  # fmt: skip
    assert row["exponent"] == exponents[0]["exponent"]
    texts = files.read_tsv(tmp_path / "one" / "texts.tsv")
    assert [item["rank"] for item in texts] == ["1", "2", "3"]
    assert all(item["domain"] in ("code", "prose", "legal") for item in texts)


def test_texts_of_another_matrix_are_refused(folder: Folder, tmp_path: Path) -> None:
    folder.texts.write_text(folder.texts.read_text() + "\n")
    done = run(folder, tmp_path / "out")
    assert done.returncode != 0
    assert "not the texts of" in done.stderr
