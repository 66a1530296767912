from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import EllipseCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from klmap import charts, figures, geometry, labels, lineage, style, tree
from klmap.arrays import Floats
from klmap.chosen import Chosen
from klmap.errors import InputError
from klmap.models_table import Model
from klmap.scene import Scene
from tests import mapfiles
from tests.mapfiles import Folder, zoo
from tests.scenes import scene_of, synthetic


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return scene_of(zoo(tmp_path_factory.mktemp("figures") / "demo"))


def test_every_figure_is_written_twice_and_has_content(scene: Scene, tmp_path: Path) -> None:
    figures.draw(scene, tmp_path, list(figures.FIGURES))
    for name in figures.FIGURES:
        pixels = imread(tmp_path / f"{name}.png")[..., :3]
        assert min(pixels.shape[:2]) > 700
        assert (pixels.min(axis=2) < 0.95).mean() > 0.01
        assert "</svg>" in (tmp_path / f"{name}.svg").read_text()
    assert len(list(tmp_path.iterdir())) == 2 * len(figures.FIGURES)


def test_figures_are_the_same_byte_for_byte(scene: Scene, tmp_path: Path) -> None:
    for run in ("a", "b"):
        figures.draw(scene, tmp_path / run, ["map", "heatmap", "ellipses", "layout"])
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_models(tmp_path: Path, count: int) -> None:
    folder = Folder(tmp_path / "demo")
    for i in range(count):
        folder.add(f"org--m{i}", revision=f"step{i}", id="org/m")
    figures.draw(scene_of(folder), tmp_path / "figures", list(figures.FIGURES))


def test_equal_models_can_be_drawn(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    value = folder.values()
    for i in range(3):
        folder.add(f"org--m{i}", value, revision=f"step{i}", id="org/m")
    figures.draw(scene_of(folder), tmp_path / "figures", list(figures.FIGURES))


def test_1018_models_are_drawn_without_labels(tmp_path: Path) -> None:
    many = synthetic(mapfiles.models(1018, families=30))
    figures.draw(many, tmp_path, ["map", "heatmap", "dendrogram", "ellipses", "layout", "paper"])
    for path in tmp_path.glob("*.svg"):
        assert "model-0001" not in path.read_text()
        assert path.stat().st_size < 6_000_000
    assert "model-0001" in _svg(synthetic(mapfiles.models(20)), tmp_path, "map")


def with_noise(scene: Scene, noise: float) -> Scene:
    """The scene with the same numerical error, in nats per text, of every model."""
    distances = scene.distances
    assert distances.kl is not None
    errors = np.full(len(scene.models), noise)
    marks = geometry.below_noise(distances.kl, errors, distances.mean_bytes)
    return replace(scene, distances=replace(distances, noise=errors, below_noise=marks))


def _share(path: Path, color: str) -> float:
    """Share of an image's pixels that have exactly this colour."""
    pixels = np.rint(imread(path)[..., :3] * 255).astype(int)
    rgb = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    return float((pixels == rgb).all(axis=2).mean())


@pytest.mark.parametrize("count", [6, 200])
def test_heatmap_marks_pairs_below_the_noise_and_only_those(tmp_path: Path, count: int) -> None:
    plain = synthetic(mapfiles.models(count))
    kl = plain.distances.kl
    assert kl is not None
    pairs = kl[np.triu_indices(count, 1)]
    shares = []
    for number, quantile in enumerate((0.0, 0.3, 1.0)):
        floor = float(np.quantile(pairs, quantile)) * (1 + 1e-9)
        noise = 0.0 if not quantile else float(np.sqrt(floor * geometry.nats_per_unit(700.0)))
        scene = with_noise(plain, noise)
        figures.draw(scene, tmp_path / str(number), ["heatmap"])
        shares.append(_share(tmp_path / str(number) / "heatmap.png", charts.BELOW_NOISE))
    assert shares[0] == 0
    assert shares[1] == pytest.approx(0.3 * shares[2], rel=0.35)
    figures.draw(plain, tmp_path / "plain", ["heatmap"])
    for ending in ("png", "svg"):
        same = [(tmp_path / name / f"heatmap.{ending}").read_bytes() for name in ("0", "plain")]
        assert same[0] == same[1]


def test_heatmap_says_how_many_pairs_are_below_the_noise(scene: Scene) -> None:
    def legends(drawn: Scene) -> str:
        found = figures.FIGURES["heatmap"](drawn).legends
        return "|".join(text.get_text() for legend in found for text in legend.get_texts())

    assert "noise" not in legends(scene)
    count = len(scene.models)
    assert f"{count * (count - 1) // 2} pairs below" in legends(with_noise(scene, 1e4))
    kl = scene.distances.kl
    assert kl is not None
    least = float(np.sort(kl[np.triu_indices(count, 1)])[:2].mean())
    noise = float(np.sqrt(least * geometry.nats_per_unit(scene.distances.mean_bytes)))
    assert "1 pair below" in legends(with_noise(scene, noise))


def test_checkpoints_below_the_noise_are_hollow(scene: Scene) -> None:
    def hollow(drawn: Scene) -> tuple[int, bool]:
        figure = figures.FIGURES["checkpoints"](drawn)
        lines = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
        points = sum(len(line.get_xdata()) for line in lines)  # type: ignore[arg-type]
        return points, any("Hollow" in text.get_text() for text in figure.texts)

    assert hollow(scene) == (0, False)
    assert hollow(with_noise(scene, 1e4)) == (4, True)


def with_support(scene: Scene, shares: list[float]) -> Scene:
    """The scene with these shares of support in the joins of its tree, over and over."""
    root = tree.parse(tree.newick(scene.rooted))
    joins = [node for node in root.walk() if node.children and node is not root]
    for number, node in enumerate(joins):
        node.support = shares[number % len(shares)]
    return replace(scene, tree=root, replicates=250)


def test_joins_of_a_small_tree_say_their_support_where_it_is_not_full(scene: Scene) -> None:
    figure = figures.FIGURES["dendrogram"](with_support(scene, [1.0, 0.996, 0.42]))
    joins = len(scene.models) - 2
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written.count("42") == joins // 3
    assert written.count("99") == (joins + 1) // 3
    assert "100" not in written
    assert any("250 bootstrap samples" in text.get_text() for text in figure.texts)


def test_joins_of_a_large_tree_are_marked_by_class() -> None:
    many = with_support(synthetic(mapfiles.models(152)), [1.0, 0.8, 0.5])
    figure = figures.FIGURES["dendrogram"](many)
    marked = [len(points.get_offsets()) for points in figure.axes[0].collections[1:]]
    assert marked == [50, 50]
    labels = [text.get_text() for text in figure.legends[-1].get_texts()]
    assert labels == ["at least 95 %  50", "70 % to 95 %  50", "below 70 %  50"]


def test_a_tree_without_support_says_nothing_of_it(scene: Scene) -> None:
    figure = figures.FIGURES["dendrogram"](scene)
    assert not any("bootstrap" in text.get_text() for text in figure.texts)
    assert len(figure.legends) == 1


@pytest.mark.parametrize("name", ["map", "loglik", "ellipses", "paper", "layout"])
def test_every_map_says_how_faithful_it_is_and_how_far_models_moved(
    scene: Scene, name: str
) -> None:
    def said(drawn: Scene) -> str:
        texts = (text.get_text() for text in figures.FIGURES[name](drawn).texts)
        return " ".join(" ".join(texts).split())

    assert scene.report is not None
    share = f"{100 * scene.report.quality.preserved:.0f} %"
    assert f"{share} are among its {scene.report.quality.neighbors} nearest" in said(scene)
    assert "kept their places (median movement 1.2 %" in said(scene)
    assert "trustworthiness" not in said(replace(scene, report=None))


def test_long_sentences_stay_within_the_figure(scene: Scene) -> None:
    assert scene.report is not None
    many = replace(scene.report.quality, sampled=2000, models=100_000)
    moved = replace(scene.report.stable, kept=99_000, new=1000, gone=1234)  # type: ignore[type-var]
    crowded = replace(scene, report=replace(scene.report, quality=many, stable=moved))
    for name in ("map", "layout", "paper"):
        figure = figures.FIGURES[name](crowded)
        for text in figure.texts:
            assert text.get_window_extent().x1 < figure.bbox.x1, name
        low = min(text.get_window_extent().y0 for text in figure.texts)
        assert low >= 0
        assert all(axes.get_window_extent().y0 > low for axes in figure.axes)


def test_ellipses_are_drawn_where_and_as_large_as_they_are(scene: Scene) -> None:
    figure = figures.FIGURES["ellipses"](scene)
    drawn = next(c for c in figure.axes[0].collections if isinstance(c, EllipseCollection))
    order = sorted(scene.ellipses, key=lambda own: -own.major)
    np.testing.assert_allclose(drawn.get_offsets(), [(own.x, own.y) for own in order])
    np.testing.assert_allclose(drawn.get_widths(), [2 * own.major for own in order])
    np.testing.assert_allclose(drawn.get_heights(), [2 * own.minor for own in order])
    np.testing.assert_allclose(drawn.get_angles(), [own.angle for own in order])
    assert any("4 bootstrap samples" in text.get_text() for text in figure.texts)


ADDED = [1, 4]


def chosen(scene: Scene, added: list[int]) -> Scene:
    """The scene as that of a selection of 146 texts, some models scored on these alone."""
    texts = scene.distances.n_texts
    models = [
        replace(model, texts=146 if row in added else texts)
        for row, model in enumerate(scene.models)
    ]
    return replace(scene, models=models, chosen=Chosen("ls", 200, 146, texts))


def rings(scene: Scene, name: str, panel: int = 0) -> list[list[float]]:
    """Middle of each circle that has no face."""
    found = figures.FIGURES[name](scene).axes[panel].collections
    return [
        place
        for item in found
        if isinstance(item, PathCollection) and not len(item.get_facecolor())  # type: ignore[arg-type]
        for place in np.asarray(item.get_offsets()).tolist()
    ]


@pytest.mark.parametrize("name", ["map", "loglik", "ellipses", "paper"])
def test_models_added_through_a_selection_have_a_ring_and_no_others(
    scene: Scene, name: str
) -> None:
    assert rings(scene, name) == rings(chosen(scene, []), name) == []
    assert rings(chosen(scene, ADDED), name) == scene.points[ADDED].tolist()
    if name == "paper":
        assert rings(chosen(scene, ADDED), name, 1) == scene.points[ADDED].tolist()


@pytest.mark.parametrize("name", ["map", "loglik", "ellipses", "paper"])
def test_a_map_of_a_selection_says_who_was_scored_on_how_many_texts(
    scene: Scene, name: str
) -> None:
    figure = figures.FIGURES[name](chosen(scene, ADDED))
    said = " ".join(text.get_text() for text in figure.texts)
    texts = scene.distances.n_texts
    assert f"Ringed: 2 models that were scored on 146 of the {texts} texts alone" in said
    assert "LS selection" in said
    if name != "paper":
        assert f"{len(scene.models)} models, 2 placed by 146 of the {texts} texts" in said
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert f"by 146 of {texts} texts  2" in legend
    for text in figure.texts:
        assert text.get_window_extent().x1 < figure.bbox.x1
    nobody = chosen(scene, []).subject
    assert f"{len(scene.models)} models, none placed by 146 of the {texts} texts alone" in nobody
    plain = figures.FIGURES[name](scene)
    assert not any("Ringed" in text.get_text() for text in plain.texts)


def test_the_note_of_ellipses_says_whether_the_others_stay(scene: Scene) -> None:
    assert scene.report is not None
    drawn = chosen(scene, ADDED)
    held = replace(drawn, report=replace(scene.report, reference="a" * 64, method="tsne"))
    for one, stay in ((drawn, False), (held, True)):
        said = " ".join(text.get_text() for text in figures.FIGURES["ellipses"](one).texts)
        assert "hold the chance of that choice too" in said
        assert ("on top of what the models around them have" in said) == stay


def test_domains_of_a_selection_count_the_chosen_texts(scene: Scene) -> None:
    figure = figures.FIGURES["domains"](chosen(scene, ADDED))
    said = " ".join(text.get_text() for text in figure.texts)
    assert "by the chosen texts of one domain" in said
    assert "Not shown: 106 texts" in said


def test_the_frame_holds_all_ellipses(scene: Scene) -> None:
    for angle in (0.0, 30.0, 90.0):
        wide = [replace(own, major=80.0, minor=1.0, angle=angle) for own in scene.ellipses]
        axes = figures.FIGURES["ellipses"](replace(scene, ellipses=wide)).axes[0]
        along = 80 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        for own in wide:
            for tip in (np.add((own.x, own.y), along), np.subtract((own.x, own.y), along)):
                assert axes.get_xlim()[0] < tip[0] < axes.get_xlim()[1]
                assert axes.get_ylim()[0] < tip[1] < axes.get_ylim()[1]


@pytest.mark.parametrize(("field", "name"), [("ellipses", "ellipses"), ("domains", "domains")])
def test_what_was_not_asked_for_is_not_drawn(
    scene: Scene, tmp_path: Path, field: str, name: str
) -> None:
    with pytest.raises(InputError, match=f"--{name}"):
        figures.draw(replace(scene, **{field: ()}), tmp_path, [name])  # type: ignore[arg-type]


def _svg(scene: Scene, folder: Path, name: str) -> str:
    figures.draw(scene, folder, [name])
    return (folder / f"{name}.svg").read_text()


@pytest.mark.parametrize(
    "column",
    ["family", "architecture", "base_model", "parameters", "bits_per_byte", "created_at"],
)
def test_every_column_colours(scene: Scene, tmp_path: Path, column: str) -> None:
    dated = [
        replace(model, created_at=f"2024-0{1 + i % 9}-01T00:00:00Z" if i % 3 else "")
        for i, model in enumerate(scene.models)
    ]
    colored = replace(scene, models=dated, color_by=column)
    figures.draw(colored, tmp_path, ["map"])


def of_pmi(scene: Scene) -> Scene:
    return replace(scene, models=[replace(model, pmi=True) for model in scene.models])


def test_the_map_of_what_prompts_add_says_so_with_the_sign_turned(scene: Scene) -> None:
    drawn = figures.FIGURES["loglik"](of_pmi(scene))
    said = words(drawn)
    assert "The map by what prompts add" in said
    assert "PMI of 240 texts" in said
    assert "mean PMI: bits per byte that prompts add" in said
    assert "log-likelihood" not in said
    assert "lower is better" not in said
    assert "lower is better" in words(figures.FIGURES["loglik"](scene))
    one, other = (style.coloring(found.models, "bits_per_byte") for found in (scene, of_pmi(scene)))
    assert one.bar is not None
    assert other.bar is not None
    assert other.bar.norm.vmax == -one.bar.norm.vmin


@pytest.mark.parametrize("name", ["map", "heatmap", "dendrogram", "checkpoints", "layout", "paper"])
def test_no_figure_calls_distances_of_pmi_a_kl(scene: Scene, name: str) -> None:
    said = words(figures.FIGURES[name](of_pmi(scene)))
    assert "KL" not in said
    assert "log-likelihood" not in said
    assert "PMI" in said


def words(figure: Figure) -> str:
    """All that is written in a figure."""
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_unknown_names_are_refused(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no figure is called 'mapp'"):
        figures.draw(scene, tmp_path, ["mapp"])
    with pytest.raises(InputError, match="--color-by licence"):
        figures.draw(replace(scene, color_by="licence"), tmp_path, ["map"])


def test_without_all_pairs_only_the_maps_are_drawn(scene: Scene, tmp_path: Path) -> None:
    sparse = replace(scene, distances=replace(scene.distances, kl=None, se=None), tree=None)
    figures.draw(sparse, tmp_path, ["map", "loglik"])
    for name, message in (("checkpoints", "dense_limit"), ("heatmap", "--tree")):
        with pytest.raises(InputError, match=message):
            figures.draw(sparse, tmp_path, [name])


def test_hostile_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    rows = [
        replace(row, model=name, id=name, family=name)
        for row, name in zip(
            mapfiles.models(6),
            ["$x^2$", r"$\frac{a}{0", "</svg><script>alert(1)</script>", "a_b{c}", "-->", "%s {0}"],
            strict=True,
        )
    ]
    for name in figures.FIGURES:
        text = _svg(synthetic(rows), tmp_path, name)
        assert "<script" not in text
        assert text.count("</svg>") == 1


def test_the_tree_of_other_models_is_refused(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not name the same models"):
        figures.draw(replace(scene, tree=tree.Node(name="other")), tmp_path, ["dendrogram"])


def test_published_families_keep_their_colours() -> None:
    each, legend = style.categories(["llama-2", "mystery", "mystery", "mistral", ""])
    assert [item.name for item in each] == ["llama-2", "mystery", "mystery", "mistral", "unknown"]
    assert each[0].color == "#ff7f0e"
    assert each[3].color == "#d62728"
    assert legend[0].name == "mystery"
    assert len({item.color for item in legend}) == len({item.marker for item in legend}) == 4


def test_rare_families_share_a_grey() -> None:
    values = [f"f{i:02d}" for i in range(40) for _ in range(40 - i)]
    each, legend = style.categories(values)
    assert len(legend) == style.MOST_COLORS
    assert legend[-1].name == "other (27 more)"
    assert sum(item.count for item in legend) == len(values)
    assert each[-1].color == style.OTHERS
    assert len({item.color for item in legend}) == len(legend)


@pytest.mark.parametrize("count", [2, 6, 10, 13])
def test_colours_of_a_legend_differ(count: int) -> None:
    _, legend = style.categories([f"family{i}" for i in range(count)])
    rgb = np.array([mpl.colors.to_rgb(item.color) for item in legend])
    apart = np.abs(rgb[:, None] - rgb[None]).sum(axis=2) + 9 * np.eye(count)
    assert apart.min() > 0.2


def _model(name: str, **kwargs: object) -> Model:
    return replace(Model(name), **kwargs)  # type: ignore[arg-type]


def test_checkpoints_are_ordered_by_number_and_end_with_the_default_revision() -> None:
    rows = [
        _model(f"o--m@{revision}", id="o/m", revision=revision)
        for revision in ("", "step100", "step20", "step1000")
    ]
    rows.append(_model("o--m+int8", id="o/m", variant="int8"))
    rows.append(_model("o--single", id="o/single"))
    assert lineage.runs(rows) == [lineage.Run("o/m", "", (2, 1, 3, 0))]


def test_layers_are_joined_in_their_order_up_to_the_model_itself() -> None:
    def inside(number: int, variant: str = "") -> Model:
        own = "+".join(filter(None, [variant, f"layer{number}"]))
        return _model(f"o--m+{own}", id="o/m", variant=own, layer=number)

    rows = [inside(10), _model("o--m", id="o/m"), inside(2), inside(0, "int8"), inside(1, "int8")]
    rows.append(_model("o--m@step5", id="o/m", revision="step5"))
    joined = [lineage.Run("o/m", "", (2, 0, 1)), lineage.Run("o/m", "int8", (3, 4))]
    assert lineage.layers(rows) == joined
    assert lineage.ways(rows) == [lineage.Run("o/m", "", (5, 1)), *joined]
    assert lineage.checkpoint_name(rows[0]) == "layer10"


def test_parents_are_the_last_checkpoint_of_the_base() -> None:
    rows = [
        _model("base@step1", id="base", revision="step1"),
        _model("base@step9", id="base", revision="step9"),
        _model("tuned", id="tuned", base_model=("base",)),
        _model("early", id="early", base_model=("base@step1",)),
        _model("merge", id="merge", base_model=("tuned", "early", "absent")),
        _model("self", id="self", base_model=("self",)),
    ]
    assert lineage.parents(rows) == [(0, 3), (1, 2), (2, 4), (3, 4)]


def test_variants_point_to_the_same_variant_and_only_the_first_row_has_arrows() -> None:
    rows = [
        _model("base", id="base"),
        _model("tuned@step1", id="tuned", revision="step1", base_model=("base",)),
        _model("tuned", id="tuned", base_model=("base",)),
        _model("tuned+int8", id="tuned", variant="int8", base_model=("base",)),
    ]
    assert lineage.parents(rows) == [(0, 1)]


def test_short_names_stay_different() -> None:
    rows = [_model(name) for name in ("a--x", "b--x", "a--y@step1", "plain")]
    assert lineage.short_names(rows) == ["a--x", "b--x", "y@step1", "plain"]


def _boxes(placed: list[labels.Placement | None], sizes: Floats) -> list[np.ndarray]:
    return [
        np.concatenate([np.subtract(p.center, size / 2), np.add(p.center, size / 2)])
        for p, size in zip(placed, sizes, strict=True)
        if p is not None
    ]


@pytest.mark.parametrize("spread", [400.0, 60.0, 0.0])
def test_labels_never_cover_each_other(spread: float) -> None:
    rng = np.random.default_rng(1)
    points = 300 + spread * rng.uniform(-0.6, 0.6, (60, 2))
    sizes = np.column_stack([rng.uniform(30, 110, 60), np.full(60, 10.0)])
    bounds = (0.0, 0.0, 600.0, 600.0)
    placed = labels.arrange(points, np.full(60, 5.0), sizes, bounds, np.zeros((0, 2)))
    assert placed == labels.arrange(points, np.full(60, 5.0), sizes, bounds, np.zeros((0, 2)))
    boxes = _boxes(placed, sizes)
    if spread == 400:
        assert len(boxes) == 60
    assert boxes
    for a, b in itertools.combinations(boxes, 2):
        shared = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        area = shared.prod() if (shared > 0).all() else 0.0
        assert area <= 0.021 * (a[2:] - a[:2]).prod()
    if spread > 0:
        assert (np.array(boxes) >= -1).all()
        assert (np.array(boxes) <= 601).all()


def test_lone_label_stands_right_of_its_point() -> None:
    placed = labels.arrange(
        np.array([[100.0, 100.0]]), np.array([5.0]), np.array([[40.0, 10.0]]),
        (0, 0, 300, 300), np.zeros((0, 2)),
    )  # fmt: skip
    assert placed[0] is not None
    assert placed[0].center == pytest.approx((126, 100))
    empty = np.zeros((0, 2))
    assert labels.arrange(empty, np.zeros(0), empty, (0, 0, 1, 1), empty) == []


def test_labels_stay_clear_of_lines() -> None:
    line = labels.sample_segments([np.array([[100.0, 100.0], [300.0, 100.0]])], 4.0)
    placed = labels.arrange(
        np.array([[100.0, 100.0]]), np.array([5.0]), np.array([[40.0, 10.0]]),
        (0, 0, 300, 300), line,
    )  # fmt: skip
    assert placed[0] is not None
    (x, y), half = placed[0].center, np.array([20.0, 5.0])
    assert not (np.abs(line - (x, y)) < half).all(axis=1).any()
