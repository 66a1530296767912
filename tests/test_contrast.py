"""Which texts carry a distance: against sums over pairs that are written out, and planted texts."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from klmap import contrast, figure_contrast, files, geometry, groups, models_table, split, store
from klmap.arrays import Floats
from klmap.contrast import Contrast
from klmap.errors import InputError
from klmap.groups import Groups
from klmap.models_table import Model
from klmap.texts import Text
from tests.mapfiles import Folder, InMemory

SCRIPT = Path(__file__).parents[1] / "scripts" / "contrast.py"
BYTES = 700.0
LABELS = ["code"] * 5 + ["prose"] * 9 + ["code"] * 4 + ["legal"] * 3 + ["rare"]


@pytest.fixture
def matrix() -> InMemory:
    rng = np.random.default_rng(3)
    return InMemory(rng.normal(-600, 150, (12, len(LABELS))), LABELS)


def one(matrix: InMemory, first: tuple[int, ...], second: tuple[int, ...] = ()) -> Contrast:
    return contrast.measure(matrix, [Groups("x", first, second)])[0]


def slow(matrix: InMemory, pairs: list[tuple[int, int]]) -> Floats:
    """Mean over pairs of the squared difference at each text, nats^2."""
    q = matrix.centred
    return np.asarray(np.mean([(q[i] - q[j]) ** 2 for i, j in pairs], axis=0))


GROUPS = {
    "pair": ((4,), (7,)),
    "model and group": ((4,), (0, 1, 9)),
    "groups": ((0, 2, 3, 11), (5, 6, 10)),
    "within": ((1, 2, 5, 8), ()),
    "overlapping": ((1, 2, 5), (2, 5, 8, 9)),
}


@pytest.mark.parametrize("name", GROUPS)
def test_parts_are_means_over_pairs_of_different_models(matrix: InMemory, name: str) -> None:
    first, second = GROUPS[name]
    pairs = list(itertools.product(first, second)) or list(itertools.combinations(first, 2))
    pairs = [(i, j) for i, j in pairs if i != j]
    found = one(matrix, first, second)
    assert found.groups.pairs == len(pairs)
    squares, unit = slow(matrix, pairs), 2 * BYTES * np.log(2)
    np.testing.assert_allclose(found.parts, squares / len(squares) / unit, rtol=1e-10)
    error = np.sqrt(((squares**2).mean() - squares.mean() ** 2) / len(squares)) / unit
    assert found.se == pytest.approx(error, rel=1e-9)


def test_a_pair_has_the_kl_and_standard_error_of_the_map(matrix: InMemory) -> None:
    kl, se = geometry.pairwise_kl(matrix.centred, BYTES)
    found = one(matrix, (4,), (7,))
    assert found.kl == pytest.approx(kl[4, 7], rel=1e-12)
    assert found.se == pytest.approx(se[4, 7], rel=1e-6)
    assert found.between is not None
    np.testing.assert_allclose(found.between, found.parts, rtol=1e-12)


def test_between_is_the_kl_of_the_group_means(matrix: InMemory) -> None:
    first, second = GROUPS["groups"]
    q = matrix.centred
    step = q[list(first)].mean(axis=0) - q[list(second)].mean(axis=0)
    found = one(matrix, first, second)
    assert found.between is not None
    assert found.difference is not None
    np.testing.assert_allclose(found.difference, step, rtol=1e-9)
    np.testing.assert_allclose(found.between, step**2 / (2 * len(step) * BYTES * np.log(2)))
    assert (found.between < found.parts).all()
    within = one(matrix, *GROUPS["within"])
    assert within.between is None
    assert within.difference is None


def test_near_models_keep_their_digits(matrix: InMemory) -> None:
    matrix.values[1] = matrix.values[0] + 1e-4 * np.arange(len(LABELS))
    matrix.clip_threshold = -1e9
    kl = np.var(1e-4 * np.arange(len(LABELS))) / (2 * BYTES * np.log(2))
    assert one(matrix, (0,), (1,)).kl == pytest.approx(kl, rel=1e-7)
    assert one(matrix, (0, 1)).kl == pytest.approx(kl, rel=1e-7)


def test_models_are_read_a_few_at_a_time(matrix: InMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [Groups(name, *GROUPS[name]) for name in GROUPS]
    expected = contrast.measure(matrix, wanted)
    read: list[int] = []
    loglik = InMemory.loglik
    monkeypatch.setattr(contrast, "ranges", lambda total, _: ((n, n + 1) for n in range(total)))

    def noted(self: InMemory, begin: int, end: int) -> Floats:
        read.append(begin)
        return loglik(self, begin, end)

    monkeypatch.setattr(InMemory, "loglik", noted)
    for found, item in zip(contrast.measure(matrix, wanted), expected, strict=True):
        np.testing.assert_allclose(found.parts, item.parts, rtol=1e-10)
    assert read == list(range(12))
    read.clear()
    contrast.measure(matrix, wanted[:1])
    assert read == [4, 7]


@pytest.mark.parametrize("name", GROUPS)
def test_domains_add_up_to_the_kl(matrix: InMemory, name: str) -> None:
    domains = split.domains_of(LABELS)
    found = one(matrix, *GROUPS[name])
    parts = contrast.by_domain(found, domains)
    assert sum(part.kl for part in parts) == pytest.approx(found.kl)
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert sum(part.text_share for part in parts) == pytest.approx(1)
    assert [part.kl for part in parts] == sorted((part.kl for part in parts), reverse=True)
    labels = np.array(LABELS)
    for part in parts:
        own = labels == part.domain
        assert part.texts == own.sum()
        assert part.kl == pytest.approx(found.parts[own].sum())
        assert part.ratio == pytest.approx(found.parts[own].mean() / found.parts.mean())
        spread = np.where(own, found.parts, 0) * len(labels)
        assert part.se == pytest.approx(spread.std() / np.sqrt(len(labels)))
        if found.difference is not None:
            values = found.difference[own]
            assert part.mean_difference == pytest.approx(values.mean())
            if own.sum() > 1:
                error = values.std(ddof=1) / np.sqrt(own.sum())
                assert part.mean_difference_se == pytest.approx(error)
            else:
                assert str(part.mean_difference_se) == "nan"


def test_one_domain_has_all_of_the_kl_and_its_error(matrix: InMemory) -> None:
    found = one(matrix, (4,), (7,))
    (part,) = contrast.by_domain(found, split.domains_of(["all"] * len(LABELS)))
    assert (part.kl, part.share, part.ratio) == pytest.approx((found.kl, 1, 1))
    assert part.se == pytest.approx(found.se)
    assert part.mean_difference == pytest.approx(0, abs=1e-9)


def test_planted_texts_and_domains_come_first(matrix: InMemory) -> None:
    matrix.values[:] = matrix.values[0]
    matrix.values[3:6, 20] += 300
    matrix.values[3:6, 2] -= 200
    found = one(matrix, (0, 1), (3, 4, 5))
    assert list(found.order[:2]) == [20, 2]
    assert found.difference is not None
    assert found.difference[20] < 0 < found.difference[2]
    assert contrast.by_domain(found, split.domains_of(LABELS))[0].domain == "legal"


@pytest.mark.parametrize(
    ("squares", "half"),
    [([1, 1, 1, 1], 2), ([8, 1, 1, 1], 1), ([3, 3, 3, 1], 2), ([1, 0, 0, 0], 1), ([0, 0], 0)],
)
def test_texts_for_half_is_the_smallest_number(squares: list[int], half: int) -> None:
    found = Contrast(Groups("x", (0,), (1,)), np.array(squares, float), 0.1, None, None)
    assert found.texts_for_half == half


def test_beyond_is_marked(matrix: InMemory, tmp_path: Path) -> None:
    found = one(matrix, (4,), (7,))
    near = replace(found, parts=found.parts * (7.99 / found.kl))
    far = replace(found, parts=found.parts * (8.01 / found.kl))
    assert (near.beyond, far.beyond) == (False, True)
    assert "beyond the range of a KL" not in words_of(drawn([near], LABELS))
    assert "beyond the range of a KL" in words_of(drawn([far], LABELS))
    made = tables(tmp_path, [near, far])["comparisons"]
    assert [row["beyond"] for row in made] == ["", "beyond"]


MODELS = [
    Model("org--a", id="org/a", family="llama"),
    Model("org--a@step9", id="org/a", revision="step9", family="llama"),
    Model("org--a+int8", id="org/a", variant="int8", family="llama"),
    Model("org--b@step10", id="org/b", revision="step10", family="opt"),
    Model("org--b@step9", id="org/b", revision="step9", family="opt"),
    Model("own name", id="./folder", family=""),
]


def ask(first: list[str], second: list[str] | None = None) -> Groups:
    return groups.find(json.dumps({"x": {"first": first, "second": second}}), MODELS)[0]


def test_items_are_names_ids_and_families() -> None:
    assert ask(["org--a@step9"], ["own name"]).first == (1,)
    assert ask(["org--a@step9"], ["own name"]).second == (5,)
    assert ask(["family:llama"], ["family:opt"]).first == (0, 1, 2)
    assert ask(["family:opt", "org--b@step9"]).first == (3, 4)
    assert ask(["family:opt"]).second == ()


def test_an_id_is_the_last_checkpoint_of_the_plainest_variant() -> None:
    assert ask(["org/a"], ["org/b"]).first == (0,)
    assert ask(["org/a"], ["org/b"]).second == (3,)


def test_an_id_of_a_model_scored_again_is_the_one_called_after_it() -> None:
    published, again = Model("org--m", id="org/m"), Model("m-again", id="org/m")
    for models in ([published, again], [again, published]):
        text = json.dumps({"x": {"first": ["org/m"], "second": ["m-again"]}})
        found = groups.find(text, models)[0]
        assert [models[row] for row in (*found.first, *found.second)] == [published, again]


def test_an_id_of_several_models_none_of_which_is_called_after_it_is_refused() -> None:
    models = [Model("one", id="org/m"), Model("two", id="org/m"), Model("z", id="z")]
    text = json.dumps({"x": {"first": ["org/m"], "second": ["z"]}})
    with pytest.raises(InputError) as error:
        groups.find(text, models)
    for word in ("comparisons.x.first", "'org/m' is the id of 2 models", "one, two"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (["org--aa"], ["org/b"], ["comparisons.x.first", "'org--aa'", "'org--a'", "models.tsv"]),
        (["org/a"], ["Org--B@step9"], ["comparisons.x.second", "'org--b@step9'"]),
        (["family:lama"], None, ["no family 'lama'", "'llama'"]),
        (["family:zzz"], None, ["no family 'zzz'", "llama, opt"]),
        (["org/a"], None, ["org--a alone", "second"]),
        (["org/a"], ["org--a"], ["are the same (1 of", "leave second out"]),
        ([], ["org/a"], ["comparisons.x.first: no models"]),
    ],
)
def test_what_cannot_be_compared_is_explained(
    first: list[str], second: list[str] | None, words: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        ask(first, second)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"x": {}}', '{"x": 3}', '{"x": {"first": 3}}'])
def test_broken_comparisons_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--comparisons"):
        groups.find(text, MODELS)


def tables(folder: Path, found: list[Contrast], most: int = 3) -> dict[str, list[dict[str, str]]]:
    domains = split.domains_of(LABELS)
    texts = [Text(n, f"text\n{n}", name, 6) for n, name in enumerate(LABELS)]
    contrast.write_comparisons(folder / "comparisons.tsv", found)
    contrast.write_domains(folder / "domains.tsv", found, domains)
    contrast.write_texts(folder / "texts.tsv", found, texts, most)
    return {path.stem: files.read_tsv(path) for path in folder.glob("*.tsv")}


def test_tables_hold_every_comparison(matrix: InMemory, tmp_path: Path) -> None:
    matrix.values[9] = matrix.values[8]
    wanted = [Groups(name, *GROUPS[name]) for name in ("pair", "within")]
    found = contrast.measure(matrix, [*wanted, Groups("equal", (8,), (9,))])
    made = tables(tmp_path, found)
    assert [row["comparison"] for row in made["comparisons"]] == ["pair", "within", "equal"]
    assert [row["first"] + row["second"] for row in made["comparisons"]] == ["11", "40", "11"]
    assert len(made["domains"]) == 3 * 4
    assert len(made["texts"]) == 3 * 3
    row = made["texts"][1]
    assert (row["comparison"], row["rank"]) == ("pair", "2")
    index = int(found[0].order[1])
    assert (row["index"], row["text"]) == (str(index), rf"text\n{index}")
    assert float(row["cumulative"]) == pytest.approx(
        found[0].parts[found[0].order[:2]].sum() / found[0].kl, rel=1e-5
    )
    assert {row["difference"] for row in made["texts"] if row["comparison"] == "within"} == {""}
    equal = [row for row in made["domains"] if row["comparison"] == "equal"]
    assert {(row["kl"], row["share"], row["ratio"]) for row in equal} == {("0", "", "")}


def drawn(found: list[Contrast], labels: list[str]) -> Figure:
    return figure_contrast.draw(found, split.domains_of(labels, most=len(labels)), "demo")


def words_of(figure: Figure) -> str:
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in [*axes.texts, *axes.get_yticklabels()]]
    return "|".join(found)


def test_a_panel_has_a_bar_for_each_domain_as_long_as_its_part(matrix: InMemory) -> None:
    found = one(matrix, (4,), (7,))
    (axes,) = drawn([found], LABELS).axes
    parts = contrast.by_domain(found, split.domains_of(LABELS))
    bars = [bar.get_width() for bar in axes.containers[0]]
    assert bars == pytest.approx([part.kl for part in parts])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [f"{part.domain}  {part.texts}" for part in parts]
    assert f"KL {found.kl:.2f}" in words_of(axes.figure)  # type: ignore[arg-type]


def test_colour_says_which_group_the_texts_are_likelier_to() -> None:
    found = Contrast(Groups("x", (0,), (1,)), np.ones(4), 0.1, np.ones(4), np.zeros(4))
    (part,) = contrast.by_domain(found, split.domains_of(["a"] * 4))
    colors = [
        figure_contrast._color(replace(part, mean_difference=mean, mean_difference_se=error))
        for mean, error in ((3.0, 1.0), (-3.0, 1.0), (1.0, 1.0), (3.0, float("nan")), (None, None))
    ]
    assert len(set(colors[:3])) == 3
    assert colors[2:] == [colors[2]] * 3


def test_one_group_is_all_scatter_and_no_difference_of_means(matrix: InMemory) -> None:
    figure = drawn([one(matrix, (1, 4, 7))], LABELS)
    inner = [bar.get_width() for bar in figure.axes[0].containers[1]]
    assert not any(inner)
    assert "two groups" not in words_of(figure)


def test_domains_that_are_joined_keep_their_side() -> None:
    values = np.full(40, 2.0) + np.random.default_rng(0).normal(0, 0.1, 40)
    found = Contrast(Groups("x", (0,), (1,)), values**2, 0.1, values, values)
    parts = contrast.by_domain(found, split.domains_of([f"d{n // 2}" for n in range(40)]))
    parts = [replace(part, mean_difference=2.0, mean_difference_se=0.1) for part in parts]
    joined = figure_contrast._joined(parts)[-1]
    assert joined.domain.endswith("other domains")
    assert joined.mean_difference == pytest.approx(2.0)
    assert joined.mean_difference_se is not None
    assert joined.mean_difference_se < 0.1


def test_few_panels_and_bars_stand_for_many(matrix: InMemory) -> None:
    labels = [f"d{n}" for n in range(len(LABELS))]
    found = [replace(one(matrix, (4,), (7,)), groups=Groups(f"c{n}", (4,), (7,)))
             for n in range(11)]  # fmt: skip
    figure = drawn(found, labels)
    assert len(figure.axes) == figure_contrast.MOST_PANELS
    assert "11 comparisons, of which the first 8 are shown" in words_of(figure)
    assert "11 other domains" in words_of(figure)
    bars = [bar.get_width() for bar in figure.axes[0].containers[0]]
    assert sum(bars) == pytest.approx(found[0].kl)


def test_equal_models_and_odd_names_can_be_drawn(matrix: InMemory, tmp_path: Path) -> None:
    matrix.values[9] = matrix.values[8]
    found = contrast.measure(matrix, [Groups("$x_1$ " * 30, (8,), (9,))])
    labels = ["$" + name * 20 for name in LABELS]
    figure_contrast.write(tmp_path, found, split.domains_of(labels), "demo")
    assert "No distance" in words_of(drawn(found, labels))
    figure_contrast.write(tmp_path, found, split.domains_of(["one"] * len(LABELS)), "demo")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "demo")
    for name in ("a", "b", "c"):
        made.add(f"org--{name}", family="gpt2")
    found = made.collect()
    store.write_matrix(made.root / "matrix.h5", found.matrix)
    models_table.write_models(made.root / "models.tsv", found.models)
    return made


def run(folder: Folder, output: Path, comparisons: str) -> subprocess.CompletedProcess[str]:
    root = folder.root
    return subprocess.run(
        [
            sys.executable, str(SCRIPT), "--matrix", str(root / "matrix.h5"),
            "--models", str(root / "models.tsv"), "--texts", str(folder.texts),
            "--comparisons", comparisons, "--ends", "4", "--folder", str(output),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_writes_tables_and_a_figure_that_stay_the_same(
    folder: Folder, tmp_path: Path
) -> None:
    asked = json.dumps({"one": {"first": ["org/a"], "second": ["org--b"]},
                        "all": {"first": ["family:gpt2"], "second": None}})  # fmt: skip
    for name in ("x", "y"):
        done = run(folder, tmp_path / name, asked)
        assert done.returncode == 0, done.stderr
    made = sorted(path.name for path in (tmp_path / "x").iterdir())
    assert made == ["comparisons.tsv", "contrast.png", "contrast.svg", "domains.tsv", "texts.tsv"]
    for name in made:
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes(), name
    assert len(files.read_tsv(tmp_path / "x" / "texts.tsv")) == 8
    assert (imread(tmp_path / "x" / "contrast.png")[..., :3].min(axis=2) < 0.9).mean() > 0.01


def test_other_texts_are_refused(folder: Folder, tmp_path: Path) -> None:
    folder.texts.write_text(folder.texts.read_text().replace("x", "y", 1))
    done = run(folder, tmp_path / "x", '{"one": {"first": ["org/a"], "second": ["org/b"]}}')
    assert done.returncode == 1
    assert "not the texts of" in done.stderr
    assert not (tmp_path / "x").exists()
