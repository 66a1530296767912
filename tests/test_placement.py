"""Layouts that stay: what moves when models come and go, and what happens to broken files."""

from __future__ import annotations

import hashlib
import itertools
import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from klmap import (
    alignment,
    embedding,
    files,
    layout,
    models_table,
    neighbors,
    placement,
    quality,
    store,
)
from klmap.arrays import Floats
from klmap.embedding import Settings
from klmap.errors import InputError
from klmap.geometry import principal_components
from klmap.placement import Cloud, Layout, Previous
from tests.mapfiles import Folder, zoo

FAST = Settings(iterations=500)
"""250 of them are early exaggeration, after which no layout is finished."""

SCRIPT = Path(__file__).parents[1] / "scripts" / "layout.py"


def families(models: int, seed: int = 0) -> Floats:
    """Points like those of published models: many families of few models, 40 directions."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(0.8, 0.05, 40)
    of = rng.integers(0, max(2, models // 12), models)
    points = (rng.normal(size=(of.max() + 1, 40)) * spread)[of]
    points += rng.normal(size=(models, 40)) * spread * rng.choice([0.1, 0.3, 0.6], models)[:, None]
    return points


def cloud_of(points: Floats, rows: Sequence[int], texts: str = "t") -> Cloud:
    names = [f"org--m{row:04d}" for row in rows]
    chosen = principal_components(points[list(rows)])
    digest = f"{names}{chosen.tobytes().hex()}"
    vectors = [hashlib.sha256(points[row].tobytes()).hexdigest()[:16] for row in rows]
    return Cloud(names, chosen, np.arange(len(names)), texts, digest, vectors)


def kept(made: Layout, cloud: Cloud, settings: Settings) -> Previous:
    """What the files would say of a layout."""
    report = layout.Report(
        cloud.texts_sha256,
        settings.used(len(cloud.names)),
        settings.metric,
        settings.perplexity,
        settings.seed,
        settings.iterations,
        placement._input(cloud, settings),
        "",
        quality.Quality(0, 1.0, 1.0, 0, 0),
        made.movement,
        made.reason,
        dict(zip(cloud.names, cloud.vectors, strict=True)),
    )
    return Previous({row.model: (row.x, row.y) for row in made.places}, report)


def faithful(made: Layout, points: Floats) -> quality.Quality:
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    return quality.measure(lambda rows: squared[rows].copy(), layout.plane_of(made.places))


@pytest.mark.parametrize("method", ["tsne", "opentsne", "umap"])
def test_five_percent_new_models_hardly_move_the_others(method: embedding.Method) -> None:
    points, settings = families(300), Settings(method)
    first = cloud_of(points, range(285))
    before = placement.make(first, settings, placement.FIRST)
    after = cloud_of(points, range(300))
    made = placement.make(after, settings, kept(before, first, settings))
    fresh = placement.make(after, settings, placement.ASKED_FOR)
    moved = made.movement
    assert moved is not None
    assert made.reason == ""
    assert (moved.kept, moved.new, moved.gone) == (285, 15, 0)
    assert 0 < moved.median < 0.03
    assert moved.median <= moved.p95 <= moved.largest
    stays, anew = faithful(made, points), faithful(fresh, points)
    assert stays.preserved > anew.preserved - 0.03
    assert stays.trustworthiness > anew.trustworthiness - 0.02


def test_a_map_grown_one_model_at_a_time_is_as_good_as_a_fresh_one() -> None:
    points = families(80)
    grown = placement.make(cloud_of(points, range(60)), FAST, placement.FIRST)
    for count in range(61, 81):
        last, now = cloud_of(points, range(count - 1)), cloud_of(points, range(count))
        grown = placement.make(now, FAST, kept(grown, last, FAST))
        assert grown.movement is not None
        assert grown.movement.new == 1
    fresh = placement.make(now, FAST, placement.ASKED_FOR)
    assert faithful(grown, points).preserved > faithful(fresh, points).preserved - 0.03


@pytest.mark.parametrize("steps", [(20, 200), (20, 40, 80, 140, 200)])
def test_a_map_may_grow_tenfold(steps: tuple[int, ...]) -> None:
    """Though one of twenty models is ten times as wide as t-SNE would make it of more."""
    points = families(200)
    last = cloud_of(points, range(20))
    grown = placement.make(last, FAST, placement.FIRST)
    for count in steps[1:]:
        now = cloud_of(points, range(count))
        grown, last = placement.make(now, FAST, kept(grown, last, FAST)), now
        assert grown.movement is not None
    fresh = placement.make(last, FAST, placement.ASKED_FOR)
    assert faithful(grown, points).preserved > faithful(fresh, points).preserved - 0.03


def test_a_new_family_finds_room_of_its_own() -> None:
    """All its members begin at one place, among strangers."""
    points = families(200)
    points[190:] = points[190] + 5 + 0.05 * np.random.default_rng(1).normal(size=(10, 40))
    first, now = cloud_of(points, range(190)), cloud_of(points, range(200))
    before = placement.make(first, FAST, placement.FIRST)
    made = placement.make(now, FAST, kept(before, first, FAST))
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    of = quality.measure(lambda rows: squared[rows].copy(), layout.plane_of(made.places)).preserved
    assert of > 0.6
    xy = layout.plane_of(made.places)
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2)[190:]
    np.fill_diagonal(apart[:, 190:], np.inf)
    assert (apart.argmin(axis=1) >= 190).all(), "each member's nearest is a member"


def test_models_that_leave_simply_go() -> None:
    points = families(60)
    first, now = cloud_of(points, range(60)), cloud_of(points, range(5, 60))
    before = placement.make(first, FAST, placement.FIRST)
    moved = placement.make(now, FAST, kept(before, first, FAST)).movement
    assert moved is not None
    assert (moved.kept, moved.new, moved.gone) == (55, 0, 5)
    assert moved.median < 0.05


def test_where_nothing_has_changed_nothing_moves_and_the_report_stays() -> None:
    points = families(40)
    first, now = cloud_of(points, range(38)), cloud_of(points, range(40))
    before = placement.make(first, FAST, placement.FIRST)
    made = placement.make(now, FAST, kept(before, first, FAST))
    again = placement.make(now, FAST, kept(made, now, FAST))
    assert again == made
    longer = placement.make(now, Settings(iterations=600), kept(made, now, FAST))
    assert longer != made, "other settings are a change"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"texts": "other"}, "another text set"),
        ({"method": "umap"}, "made by tsne, this one by umap"),
        ({"metric": "sqeuclidean"}, "metric euclidean"),
        ({"perplexity": 10}, "with perplexity 30, this one with 10"),
        ({"seed": 7}, "with seed 42, this one with 7"),
    ],
)
def test_other_texts_and_settings_are_a_fresh_start(change: dict[str, object], reason: str) -> None:
    points = families(30)
    first = cloud_of(points, range(28))
    before = kept(placement.make(first, FAST, placement.FIRST), first, FAST)
    now = cloud_of(points, range(30), str(change.pop("texts", "t")))
    settings = Settings(**{"iterations": 500, **change})  # type: ignore[arg-type]
    made = placement.make(now, settings, before)
    assert reason in made.reason
    assert made.movement is None
    assert made == placement.make(now, settings, made.reason), "as if there were nothing before"


def test_both_tsnes_continue_each_other() -> None:
    points = families(40)
    first, now = cloud_of(points, range(38)), cloud_of(points, range(40))
    before = kept(placement.make(first, FAST, placement.FIRST), first, FAST)
    made = placement.make(now, Settings(iterations=500, dense_limit=39), before)
    assert made.movement is not None
    assert made.places[0].method == "opentsne-euclidean"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_old_models_are_a_fresh_start(count: int) -> None:
    points = families(40)
    first, now = cloud_of(points, range(20)), cloud_of(points, range(20 - count, 40))
    before = kept(placement.make(first, FAST, placement.FIRST), first, FAST)
    made = placement.make(now, FAST, before)
    assert f"only {count} places of these models" in made.reason


def test_equal_models_end_in_one_place() -> None:
    """Two new models without a KL between them, nor to an old one."""
    points = families(30)
    points[28] = points[29] = points[3]
    first, now = cloud_of(points, range(28)), cloud_of(points, range(30))
    before = kept(placement.make(first, FAST, placement.FIRST), first, FAST)
    xy = layout.plane_of(placement.make(now, FAST, before).places)
    assert np.isfinite(xy).all()
    apart = np.linalg.norm(xy - xy[3], axis=1)
    assert set(np.argsort(apart, kind="stable")[:3]) == {3, 28, 29}
    assert apart[[28, 29]].max() < 0.02 * alignment.width(xy)


def test_pca_keeps_true_distances_and_the_old_directions() -> None:
    points, settings = families(40), Settings("pca")
    first, now = cloud_of(points, range(38)), cloud_of(points, range(40))
    made = placement.make(first, settings, placement.FIRST)
    flipped = Layout(
        [layout.Place(row.model, -row.y, row.x, "pca") for row in made.places], None, ""
    )
    before = kept(flipped, first, settings)
    after = placement.make(now, settings, before)
    assert after.movement is not None
    assert after.movement.median < 0.05
    old, new = layout.plane_of(flipped.places), layout.plane_of(after.places)[:38]
    assert np.corrcoef(old[:, 0], new[:, 0])[0, 1] > 0.95
    xy, plain = layout.plane_of(after.places), now.points[:, :2]
    for a, b in itertools.combinations(range(40), 2):
        assert np.hypot(*(xy[a] - xy[b])) == pytest.approx(
            np.hypot(*(plain[a] - plain[b])), rel=1e-3
        )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_map_of_few_models_grows_by_pca(count: int) -> None:
    points = families(10)
    first, now = cloud_of(points, range(count)), cloud_of(points, range(count + 1))
    before = kept(placement.make(first, FAST, placement.FIRST), first, FAST)
    made = placement.make(now, FAST, before)
    assert made.movement is not None
    assert made.movement.kept == count
    assert np.isfinite(layout.plane_of(made.places)).all()


class Files:
    """The files of the rule, and its script called in this process."""

    def __init__(self, folder: Folder) -> None:
        self.root = folder.root
        self.folder = folder
        self.table, self.report = self.root / "layout.tsv", self.root / "layout.json"
        self.collect()

    def collect(self) -> None:
        """Make the matrix and the distances of all models there are."""
        found = self.folder.collect()
        store.write_matrix(self.root / "matrix.h5", found.matrix)
        models_table.write_models(self.root / "models.tsv", found.models)
        distances, _ = neighbors.measure(found.matrix, 10, 5000)
        store.write_distances(self.root / "kl.h5", distances)

    def run(self, *options: str) -> layout.Report:
        """Run the script and read what it says of its layout."""
        names = {"matrix": "matrix.h5", "kl": "kl.h5", "models": "models.tsv"}
        names |= {"layout": "layout.tsv", "report": "layout.json"}
        arguments = [word for key, name in names.items() for word in (f"--{key}", self.root / name)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                sys, "argv", ["layout.py", *map(str, arguments), "--iterations", "500", *options]
            )
            runpy.run_path(str(SCRIPT))["main"]()
        return layout.read_report(self.report)

    @property
    def bytes(self) -> tuple[bytes, bytes]:
        return self.table.read_bytes(), self.report.read_bytes()


@pytest.fixture
def map_files(tmp_path: Path) -> Files:
    return Files(zoo(tmp_path / "demo"))


def test_the_rule_continues_its_own_files(map_files: Files) -> None:
    first = map_files.run()
    assert first.stable is None
    assert first.reason == placement.FIRST
    assert first.method == "tsne"
    before = map_files.bytes
    map_files.run()
    assert map_files.bytes == before, "nothing has changed"

    map_files.folder.add("demo--another")
    map_files.collect()
    second = map_files.run()
    assert second.stable is not None
    assert (second.stable.kept, second.stable.new) == (first.quality.models, 1)
    after = map_files.bytes
    for _ in range(2):
        map_files.run()
        assert map_files.bytes == after, "a rerun neither moves a model nor forgets who is new"

    fresh = map_files.run("--fresh")
    assert fresh.stable is None
    assert fresh.reason == placement.ASKED_FOR


def test_the_report_says_how_faithful_the_map_is(map_files: Files) -> None:
    report = map_files.run()
    distances = store.read_distances(map_files.root / "kl.h5")
    xy = layout.plane_of(layout.read_places(map_files.table))
    assert distances.kl is not None
    truth = distances.kl
    assert report.quality == quality.measure(lambda rows: truth[rows].copy(), xy)
    written = json.loads(map_files.report.read_text())
    expected = {"neighbors", "preserved", "trustworthiness", "sampled", "models"}
    assert set(written["quality"]) == expected
    assert "nearest" in layout.sentence(report)


def test_above_the_limit_the_principal_components_are_placed(map_files: Files) -> None:
    """Which hold every distance of these few models, so the map is as faithful."""
    report = map_files.run("--dense-limit", "5")
    assert report.method == "opentsne"
    exact = map_files.run("--method", "opentsne", "--fresh")
    assert report.quality.preserved == pytest.approx(exact.quality.preserved, abs=0.1)
    kl = map_files.root / "kl.h5"
    distances = store.read_distances(kl)
    distances.pca_points = None
    store.write_distances(kl, distances)
    with pytest.raises(InputError, match="no principal components"):
        map_files.run("--dense-limit", "5")


def test_a_layout_is_lost_with_either_file(
    map_files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    map_files.run()
    table, report = map_files.bytes
    broken = table.replace(b"\t", b" ", 1)
    cases: list[tuple[bytes | None, bytes | None, str]] = [
        (None, report, "layout.tsv: no such file"),
        (table, None, "layout.json: no such file"),
        (b"", report, "layout.tsv: empty"),
        (broken, report, "layout.tsv"),
        (table, b"{", "layout.json: not valid JSON"),
        (table, b"{}", "layout.json"),
        (table.replace(b"demo--merge", b"demo--other"), report, "is not the table"),
    ]
    for put_table, put_report, reason in cases:
        for path, content in ((map_files.table, put_table), (map_files.report, put_report)):
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        caplog.clear()
        found = map_files.run()
        assert found.stable is None
        assert reason in found.reason
        assert "cannot be continued" in caplog.text, "said in the log, and no error"
        assert map_files.table.read_bytes() == table, "a fresh one is as the first"


def test_models_without_a_place_are_new(map_files: Files) -> None:
    before = map_files.run()
    rows = layout.read_places(map_files.table)
    first = rows[0].model
    lines = map_files.table.read_text().splitlines(keepends=True)
    lines[1] = f"{first}\tnan\t1.0\ttsne-euclidean\n"
    del lines[2]
    map_files.table.write_text("".join(lines))
    written = json.loads(map_files.report.read_text())
    written["table"] = files.sha256_of(map_files.table)
    files.write_json(map_files.report, written)
    after = map_files.run()
    assert after.stable is not None
    assert (after.stable.kept, after.stable.new) == (before.quality.models - 2, 2)
    assert np.isfinite(layout.plane_of(layout.read_places(map_files.table))).all()


def test_a_job_killed_before_it_writes_leaves_the_old_files(
    map_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    map_files.run()
    before = map_files.bytes
    map_files.folder.add("demo--another")
    map_files.collect()
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "continued", _killed)
        with pytest.raises(KeyboardInterrupt):
            map_files.run()
    assert map_files.bytes == before
    assert sorted(map_files.root.glob(".*")) == []
    assert map_files.run().stable is not None


def test_a_job_killed_between_its_files_marries_none_to_another_text_set(
    map_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is of the new texts then, and the report of the old ones: asked for these again,
    the places of the new ones must not be taken for theirs."""
    map_files.run()
    first = map_files.bytes
    other = Files(zoo(tmp_path / "other", n_texts=180))
    for name, content in zip(("layout.tsv", "layout.json"), first, strict=True):
        (other.root / name).write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(layout, "write_report", _killed)
        with pytest.raises(KeyboardInterrupt):
            other.run()
    assert other.table.read_bytes() != first[0]
    assert other.report.read_bytes() == first[1]

    map_files.table.write_bytes(other.table.read_bytes())
    again = map_files.run()
    assert again.stable is None
    assert "is not the table" in again.reason
    assert map_files.table.read_bytes() == first[0]


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_distances_of_other_models_are_refused(map_files: Files) -> None:
    map_files.folder.add("demo--another")
    found = map_files.folder.collect()
    distances, _ = neighbors.measure(found.matrix, 10, 5000)
    store.write_distances(map_files.root / "kl.h5", distances)
    with pytest.raises(InputError, match=r"kl\.h5 beside it is of other models"):
        map_files.run()


def test_sentences_are_plain() -> None:
    moved = alignment.Movement(26, 2, 0, 0.004, 0.01, 0.02)
    assert alignment.sentence(moved) == (
        "26 models kept their places (median movement 0.4 % of the map's width); 2 are new."
    )
    one = alignment.Movement(1, 1, 1, 0.0, 0.0, 0.0)
    assert alignment.sentence(one) == (
        "1 model kept its place (median movement 0.0 % of the map's width); 1 is new; 1 has left."
    )
