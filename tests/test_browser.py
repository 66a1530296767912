"""The page in a real browser: what people do with it, from disk, without a word on the console."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from klmap import explorer, files, store
from klmap.explorer_arrays import packed
from tests.pagefiles import (
    HOSTILE,
    TASKS,
    MapFiles,
    add_column,
    write_map,
    write_scores,
    write_selection,
    write_ways,
)

CHROMIUM = shutil.which("chromium")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
OWNED = """() => [document.title, window.owned, document.querySelectorAll("img, iframe").length]"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens a page; in the end none may have said a word or asked for anything but itself."""
    complaints: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(path: Path, address: str = "", **settings: Any) -> Page:
        viewport = {"width": 1280, "height": 800}
        contexts.append(browser.new_context(**{"viewport": viewport, **settings}))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url.partition("#")[0]))
        page.goto(path.as_uri() + address)
        if settings.get("java_script_enabled", True):
            until(page, "window.klmap")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {address for address in asked if not address.startswith("blob:")} == {
        address for address in asked if address.endswith("/map.html")
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MapFiles:
    """Forty models on texts of five domains."""
    made = write_map(tmp_path_factory.mktemp("browser") / "demo", 40, n_domains=5)
    write(made.folder, made.payload(ellipses_path=made.path("ellipses.tsv")))
    return made


def write(folder: Path, payload: dict[str, Any]) -> Path:
    path = folder / "map.html"
    explorer.write_page(path, explorer.page(payload))
    return path


@pytest.fixture
def page(made: MapFiles, visit: Open) -> Page:
    return visit(made.path("map.html"))


def until(page: Page, expression: str, argument: Any = None) -> None:
    """Wait for an expression; Playwright's own way of waiting is what the policy forbids."""
    for _ in range(400):
        if page.evaluate(expression, argument):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def selected(page: Page) -> list[str]:
    return page.evaluate("klmap.selected()")


def shown(page: Page, layer: str) -> int:
    """Marks in a layer, once the page has painted what was asked of it."""
    page.wait_for_timeout(120)
    return page.evaluate("layer => klmap.shown(layer)", layer)


def click(page: Page, name: str, key: str = "") -> None:
    place = page.evaluate("name => klmap.where(name)", name)
    if key:
        page.keyboard.down(key)
    page.mouse.click(place["x"], place["y"])
    if key:
        page.keyboard.up(key)
    until(page, "name => klmap.selected().includes(name)", name)


def apart(page: Page, made: MapFiles, count: int = 2) -> list[str]:
    """Models that stand far enough from all others to be hit by a pointer."""
    names = [model.model for model in made.models]
    places = page.evaluate("names => names.map((name) => klmap.where(name))", names)
    points = np.array([[place["x"], place["y"]] for place in places])
    distance = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    alone = np.argsort(-distance.min(axis=1))[:count]
    assert distance.min(axis=1)[alone].min() > 12
    return [names[row] for row in alone]


def row_of(made: MapFiles, name: str) -> int:
    return [model.model for model in made.models].index(name)


def numbers(text: str) -> tuple[float, float]:
    """A KL and its standard error as the page writes them."""
    kl, _, se = text.partition(" ± ")
    return float(kl), float(se)


def close(text: str, kl: float, se: float) -> bool:
    """Whether both numbers are right to the last digit that is shown."""
    unit = 10.0 ** -len(text.partition(" ")[0].partition(".")[2])
    found = numbers(text)
    return (
        abs(found[0] - kl) < 0.6 * unit + 3e-4 * kl and abs(found[1] - se) < 0.6 * unit + 0.04 * se
    )


def test_the_page_is_ready_and_says_what_it_shows(page: Page) -> None:
    assert page.evaluate("klmap.ready > 0 && klmap.models") == 40
    assert page.locator("h1").inner_text() == "Map of 40 language models"
    header = page.locator("header p").inner_text()
    assert "200 texts of “demo” from 5 domains" in header
    assert "t-SNE" in header
    about = page.locator("#about").inner_text()
    assert "61 %" in about
    assert "0.970" in about
    assert "moved" in about
    page.get_by_text("How to read this map").click()
    assert page.get_by_text("Near is not good").is_visible()
    assert shown(page, "points") == 40


def test_both_axes_have_one_scale_whatever_is_done(page: Page) -> None:
    def scale() -> float:
        page.wait_for_timeout(150)
        scales = page.evaluate("klmap.scales()")
        assert scales["x"] == pytest.approx(scales["y"], rel=1e-6)
        return float(scales["x"])

    first = scale()
    page.mouse.move(700, 400)
    page.mouse.wheel(0, -300)
    nearer = scale()
    assert nearer < 0.9 * first
    page.mouse.down()
    page.mouse.move(800, 450, steps=4)
    page.mouse.up()
    assert scale() == pytest.approx(nearer)
    page.set_viewport_size({"width": 1500, "height": 700})
    assert scale() == pytest.approx(nearer, rel=1e-3)
    page.click("#zoom-all")
    page.set_viewport_size({"width": 1000, "height": 800})
    assert scale() > nearer


def test_search_finds_by_any_word_and_dims_the_others(page: Page, made: MapFiles) -> None:
    licence = next(model.license for model in made.models if model.license)
    having = [model for model in made.models if model.license == licence]
    page.fill("#search", licence)
    assert page.locator("#hits [role=option]").count() == min(40, len(having))
    assert shown(page, "lit") == len(having)
    name = made.models[7].model
    page.fill("#search", f"{made.models[7].family} {name[-12:]}".upper())
    page.keyboard.press("ArrowDown")
    hit = page.locator("#hits [aria-selected=true]")
    assert name in hit.inner_text()
    page.keyboard.press("Enter")
    assert selected(page) == [name]
    page.fill("#search", "no such model")
    assert "No model has all these words" in page.locator("#hits").inner_text()
    page.click("#clear")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert selected(page) == []
    assert shown(page, "lit") == 0


def test_every_column_can_be_coloured_by(page: Page, made: MapFiles) -> None:
    name = made.models[3].model
    seen = set()
    options = page.locator("#color option").evaluate_all("all => all.map((one) => one.value)")
    assert {"family", "license", "parameters", "created_at", "bits_per_byte", "mean_loglik"} < set(
        options
    )
    for option in options:
        page.select_option("#color", option)
        seen.add(page.evaluate("name => klmap.color(name)", name))
        if option in ("family", "license"):
            counts = page.locator("#entries .count").all_inner_texts()
            assert sum(map(int, counts)) == 40
        elif option != "@kl":
            assert page.locator("#entries .ticks span, #entries .count").count() >= 1
    assert len(seen) > 4
    page.select_option("#color", "parameters")
    ticks = page.locator(".ticks span").all_inner_texts()
    assert "1B" in ticks


def test_benchmark_scores_are_shown_beside_what_is_predicted_of_them(
    visit: Open, tmp_path: Path
) -> None:
    made = write_map(tmp_path / "demo", 40)
    page = visit(write(made.folder, made.payload(**write_scores(made))))
    groups = page.locator("#color optgroup").evaluate_all(
        "all => all.map((one) => [one.label, [...one.children].map((option) => option.value)])"
    )
    own = dict(groups)
    assert own["Benchmark scores"] == list(TASKS)
    assert own["Predicted scores"] == [f"{task}, predicted" for task in TASKS]
    assert not set(TASKS) & set(own["Numbers"])
    far, new, known = (model.model for model in made.models[:3])
    page.select_option("#color", "6-TaskMean, predicted")
    assert page.locator("#entries .ramp").is_visible()
    assert "1 unknown (grey)" in page.locator("#entries").inner_text()
    grey = page.evaluate("name => klmap.color(name)", far)
    assert grey != page.evaluate("name => klmap.color(name)", new)
    page.select_option("#color", "6-TaskMean")
    assert "2 unknown (grey)" in page.locator("#entries").inner_text()
    assert page.evaluate("name => klmap.color(name)", new) == grey
    sentence = f"{far} was scored with dtype float32, others with float16"
    assert sentence in page.locator("#about").inner_text()
    rows = {}
    for name in (far, new, known):
        page.fill("#search", name)
        page.keyboard.press("Enter")
        until(page, "name => klmap.selected().includes(name)", name)
        page.locator("#selection summary", has_text="More about it").click()
        rows[name] = page.locator("#selection .scores tr").all_inner_texts()
    table = {row["model"]: row for row in files.read_tsv(made.path("benchmarks.tsv"))}
    assert rows[far] == []
    assert rows[new][0].split("\t") == ["benchmark", "predicted"]
    assert rows[known][0].split("\t") == ["benchmark", "measured", "predicted"]
    assert float(rows[known][1].split("\t")[1]) == float(table[known]["ARC"])


def test_colour_by_distance_follows_the_selected_model(page: Page, made: MapFiles) -> None:
    page.select_option("#color", "@kl")
    assert "Select a model" in page.locator("#entries").inner_text()
    kl = store.read_distances(made.path("kl.h5")).kl
    assert kl is not None
    name = apart(page, made, 1)[0]
    click(page, name)
    far, near = np.argmax(kl[row_of(made, name)]), np.argsort(kl[row_of(made, name)])[1]
    color = [page.evaluate("n => klmap.color(n)", made.models[row].model) for row in (near, far)]
    assert color == [explorer.look(40)["ramp"][0], explorer.look(40)["ramp"][round(0.9 * 127)]]


def test_legend_entries_toggle(page: Page, made: MapFiles) -> None:
    entry = page.locator(".entry").first
    name, count = entry.locator(".label").inner_text(), int(entry.locator(".count").inner_text())
    assert count == sum(model.family == name for model in made.models)
    assert entry.get_attribute("aria-pressed") == "true"
    entry.click()
    assert page.locator(".entry").first.get_attribute("aria-pressed") == "false"
    assert shown(page, "points") == 40 - count
    hidden = next(model.model for model in made.models if model.family == name)
    place = page.evaluate("name => klmap.where(name)", hidden)
    page.mouse.click(place["x"], place["y"])
    assert hidden not in selected(page)
    page.get_by_text("Show all", exact=True).click()
    assert shown(page, "points") == 40


def test_hover_shows_identity(page: Page, made: MapFiles) -> None:
    name = apart(page, made, 1)[0]
    model = made.models[row_of(made, name)]
    place = page.evaluate("name => klmap.where(name)", name)
    page.mouse.move(place["x"], place["y"])
    page.locator("#tip").wait_for()
    tip = page.locator("#tip").inner_text()
    for part in (name, model.family, model.created_at[:10], "bits per byte", model.dtype):
        assert part in tip
    assert shown(page, "rings") == 1
    page.mouse.move(place["x"] + 5, 795)
    page.locator("#tip").wait_for(state="hidden")


def test_a_click_lists_the_nearest_with_their_errors(page: Page, made: MapFiles) -> None:
    name = apart(page, made, 1)[0]
    click(page, name)
    rows = [row for row in files.read_tsv(made.path("neighbors.tsv")) if row["model"] == name]
    listed = page.locator("ol.near li")
    assert listed.count() == len(rows)
    for at, row in enumerate(rows):
        assert listed.nth(at).locator(".name").get_attribute("title") == row["neighbor"]
        text = listed.nth(at).locator(".kl").inner_text()
        assert close(text, float(row["kl"]), float(row["se"])), (text, row)
        assert "of the texts" in (listed.nth(at).locator(".sparks").get_attribute("aria-label"))
    assert page.locator("#selection h2").inner_text() == name
    assert page.locator("table.domains tbody tr").count() == 5
    assert shown(page, "links") == len(rows)


def exact_parts(made: MapFiles, first: str, second: str) -> dict[str, float]:
    """Each domain's part of a KL, straight from the definition."""
    matrix = store.read_matrix(made.path("matrix.h5"))
    loglik = np.maximum(matrix.loglik, matrix.clip_threshold)
    difference = loglik[row_of(made, first)] - loglik[row_of(made, second)]
    square = (difference - difference.mean()) ** 2
    unit = 2 * len(square) * matrix.mean_bytes * np.log(2)
    domain = np.array(made.domain)
    return {name: float(square[domain == name].sum() / unit) for name in set(made.domain)}


def test_two_models_show_their_kl_and_its_split(page: Page, made: MapFiles) -> None:
    first, second = apart(page, made)
    click(page, first)
    click(page, second, "Shift")
    assert selected(page) == [first, second]
    distances = store.read_distances(made.path("kl.h5"))
    at = (row_of(made, first), row_of(made, second))
    assert distances.kl is not None
    assert distances.se is not None
    text = page.locator("#pair-kl b").inner_text()
    assert close(text, distances.kl[at], distances.se[at]), (text, distances.kl[at])
    parts = exact_parts(made, first, second)
    assert sum(parts.values()) == pytest.approx(distances.kl[at])
    rows = page.locator("table.domains tbody tr")
    assert rows.count() == len(parts)
    for row in rows.all():
        name, part, share = row.inner_text().split("\t")[0], *row.locator(".number").all()
        assert float(part.inner_text()) == pytest.approx(parts[name], rel=2e-3, abs=6e-4)
        shown_share = float(share.inner_text().rstrip(" %")) / 100
        assert shown_share == pytest.approx(parts[name] / sum(parts.values()), abs=0.006)
    heads = page.locator("#selection h2").all_inner_texts()
    assert heads == [first, second]
    page.get_by_text("Back to the first").click()
    assert selected(page) == [first]


def test_models_added_through_a_selection_are_ringed_and_say_of_how_many_texts_they_are(
    made: MapFiles, visit: Open, tmp_path: Path
) -> None:
    added = [3, 17, 29]
    chosen = write_selection(made, tmp_path / "demo-ls", added)
    page = visit(write(chosen.folder, chosen.payload(reference="demo")))
    texts = len(chosen.domain)
    assert shown(page, "added") == 3
    assert "LS selection" in page.locator("header p").inner_text()
    page.click("#added")
    assert selected(page) == [made.models[row].model for row in added]
    page.locator("#selection li .name").first.click()
    line = f"Scored on {texts} of 200 texts (selection ls, n=90): its distances have wider errors."
    assert line in page.locator("#selection").inner_text()
    distances = store.read_distances(chosen.path("kl.h5"))
    assert distances.kl is not None
    assert distances.se is not None
    for pair, over in (((3, 30), f"{texts} of 200 texts"), ((30, 31), "200 texts")):
        address = "#" + "&".join(f"m={quote(made.models[row].model)}" for row in pair)
        again = visit(chosen.path("map.html"), address)
        text = again.locator("#pair-kl b").inner_text()
        assert close(text, distances.kl[pair], distances.se[pair]), text
        panel = again.locator("#selection")
        assert f"standard error over {over}" in panel.inner_text()
        assert panel.locator(".chip", has_text="estimate").count() == 1
    page.click("#see-table")
    page.click("[data-sort=texts]")
    names = page.locator("#models tbody th").all_inner_texts()
    assert {name.strip() for name in names[:3]} == {made.models[row].model for row in added}


def test_numbers_that_are_no_numbers_are_marked(
    made: MapFiles, visit: Open, tmp_path: Path
) -> None:
    payload = made.payload()
    flags = payload["neighbors"]["flags"]
    flags |= packed(np.tile(np.array([1, 2, 0] + 7 * [0]), (40, 1)), "u1")
    page = visit(write(tmp_path, payload))
    click(page, apart(page, made, 1)[0])
    chips = page.locator("ol.near .chip")
    assert chips.all_inner_texts() == ["beyond", "below noise"]
    chips.last.hover()
    assert "cannot be told apart" in page.locator("#tip").inner_text()


def test_an_estimate_says_so_and_how_good_it_is(
    made: MapFiles, visit: Open, tmp_path: Path
) -> None:
    payload = {**made.payload(), "pairs": None}
    page = visit(write(tmp_path, payload))
    name = made.models[0].model
    near = {
        row["neighbor"]
        for row in files.read_tsv(made.path("neighbors.tsv"))
        if row["model"] == name
    }
    near |= {
        row["model"]
        for row in files.read_tsv(made.path("neighbors.tsv"))
        if row["neighbor"] == name
    }
    other = next(m.model for m in made.models[::-1] if m.model not in near | {name})
    page.goto(page.url.partition("#")[0] + f"#m={quote(name)}&m={quote(other)}")
    until(page, "window.klmap && klmap.selected().length === 2")
    kl = store.read_distances(made.path("kl.h5")).kl
    assert kl is not None
    exact = kl[row_of(made, name), row_of(made, other)]
    assert float(page.locator("#pair-kl b").inner_text()) == pytest.approx(exact, rel=0.01)
    page.locator("#selection .chip").first.hover()
    assert "off by" in page.locator("#tip").inner_text()

    bare = visit(
        write(tmp_path, {**payload, "components": None}), f"#m={quote(name)}&m={quote(other)}"
    )
    assert "holds no distance for this pair" in bare.locator("#selection").inner_text()
    assert "@kl" not in bare.locator("#color").inner_html()


@pytest.fixture(scope="module")
def with_ways(made: MapFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ways")
    return write(folder, made.payload(ways_paths=write_ways(made, folder)))


def test_ways_are_drawn_for_the_group_that_is_chosen(
    page: Page, visit: Open, with_ways: Path
) -> None:
    assert page.locator("#way").count() == 0
    page = visit(with_ways)
    groups = page.locator("#way optgroup").evaluate_all(
        "all => all.map((one) => [one.label, [...one.children].map((option) => option.text)])"
    )
    assert groups == [["Edit of the prompt", ["polite", "german"]], ["Mixture", ["code"]]]
    assert page.locator("#way").input_value() == ""
    assert (shown(page, "ways"), shown(page, "ends")) == (0, 0)
    page.select_option("#way", "prompts/german")
    assert (shown(page, "ways"), shown(page, "ends")) == (40, 40)
    note = page.locator("#way-note").inner_text()
    assert note.startswith("Edit of the prompt: german")
    assert "where a model would stand if its prompts were edited." in note
    page.locator("#way-note .term").hover()
    assert "no measure of the shift" in page.locator("#tip").inner_text()
    entry = page.locator(".entry").first
    count = int(entry.locator(".count").inner_text())
    entry.click()
    assert shown(page, "ways") == 40 - count
    page.get_by_text("Show all", exact=True).click()
    page.select_option("#way", "mixture/code")
    assert (shown(page, "ways"), shown(page, "ends")) == (1, 2)
    page.select_option("#way", "")
    assert (shown(page, "ways"), shown(page, "ends")) == (0, 0)
    assert page.locator("#way-note").inner_text() == ""


def test_a_way_says_where_it_leads_and_selects_its_model(
    made: MapFiles, visit: Open, with_ways: Path
) -> None:
    page = visit(with_ways, "#ways=prompts%2Fpolite")
    page.wait_for_timeout(200)
    name = lonely_end(page, made, (6, 2))
    row = row_of(made, name)
    start, scale = page.evaluate("name => klmap.where(name)", name), page.evaluate("klmap.scales()")
    for share in (0.97, 0.7):
        page.mouse.move(start["x"] + share * 6 / scale["x"], start["y"] - share * 2 / scale["y"])
        page.locator("#tip").wait_for()
        tip = page.locator("#tip").inner_text().split("\n")
        label = f"polite: 0.{row:02d} bits/byte away"
        assert tip == [name, "Edit of the prompt: polite", label]
    page.mouse.click(start["x"] + 0.9 * 6 / scale["x"], start["y"] - 0.9 * 2 / scale["y"])
    until(page, "name => klmap.selected().includes(name)", name)
    assert f"Edit of the prompt: polite {label}" in page.locator("#selection").inner_text()
    page.keyboard.press("Escape")
    page.mouse.move(640, 795)
    page.mouse.move(start["x"], start["y"])
    page.locator("#tip").wait_for()
    assert f"Edit of the prompt: polite: {label}" in page.locator("#tip").inner_text()


def lonely_end(page: Page, made: MapFiles, way: tuple[float, float]) -> str:
    """A model whose way, all alike, ends far from every point and from the ways of others."""
    names = [model.model for model in made.models]
    places = page.evaluate("names => names.map((name) => klmap.where(name))", names)
    points = np.array([[place["x"], place["y"]] for place in places])
    scale = page.evaluate("klmap.scales()")
    step = np.array([way[0] / scale["x"], -way[1] / scale["y"]])
    room = []
    for row, point in enumerate(points):
        others = np.delete(points, row, axis=0)
        apart = [
            np.hypot(*(point + own * step - others - other * step).T).min()
            for own in (0.7, 0.9, 0.97)
            for other in np.linspace(0, 1, 21)
        ]
        room.append(min(apart))
    assert max(room) > 15
    return names[int(np.argmax(room))]


def test_the_link_holds_the_ways_and_takes_no_others(
    made: MapFiles, visit: Open, with_ways: Path
) -> None:
    page = visit(with_ways)
    page.select_option("#way", "prompts/polite")
    until(page, "location.hash.includes('ways=prompts%2Fpolite')")
    again = visit(with_ways, page.evaluate("location.hash"))
    assert again.locator("#way").input_value() == "prompts/polite"
    assert shown(again, "ways") == 40
    again.evaluate("location.hash = 'ways=__proto__'")
    until(again, "klmap.shown('ways') === 0")
    assert again.locator("#way").input_value() == ""
    assert visit(made.path("map.html"), "#ways=prompts%2Fpolite").evaluate("klmap.models") == 40


def test_the_map_makes_room_for_ways_that_lead_out_of_it(visit: Open, with_ways: Path) -> None:
    page = visit(with_ways)
    before = page.evaluate("klmap.scales().x")
    page.select_option("#way", "prompts/polite")
    until(page, "before => klmap.scales().x > before * 1.005", before)
    page.select_option("#way", "")
    until(page, "before => Math.abs(klmap.scales().x / before - 1) < 1e-9", before)


def test_hostile_ways_are_shown_as_they_are(made: MapFiles, visit: Open, tmp_path: Path) -> None:
    paths = write_ways(made, tmp_path)
    rows = files.read_tsv(paths[1])
    lines = [(HOSTILE[0], HOSTILE[1], *list(row.values())[2:5], HOSTILE[0]) for row in rows]
    files.write_tsv(paths[1], list(rows[0]), lines)
    page = visit(write(tmp_path, made.payload(ways_paths=paths)))
    title = page.evaluate("document.title")
    page.select_option("#way", f"mixture/{HOSTILE[0]}")
    assert page.locator("#way-note .term").inner_text() == f"Mixture: {HOSTILE[0]}"
    assert page.evaluate(OWNED) == [title, None, 0]


def test_models_of_another_kind_of_likelihood_are_marked_and_can_be_coloured(
    made: MapFiles, page: Page, visit: Open, tmp_path: Path
) -> None:
    assert page.locator("#color option[value=likelihood]").count() == 0
    near = files.read_tsv(made.path("neighbors.tsv"))[0]
    rows = [row_of(made, near[key]) for key in ("model", "neighbor")]
    kinds = ["masked" if row == rows[1] else "causal" for row in range(40)]
    path = add_column(made, tmp_path / "mixed.tsv", "likelihood", kinds)
    page = visit(write(tmp_path / "mixed", made.payload(models_path=path)))
    assert "no KL divergences" in page.locator("#about").inner_text()
    page.select_option("#color", "likelihood")
    assert page.locator("#entries .label").all_inner_texts() == ["causal", "masked"]
    page.fill("#search", near["model"])
    page.keyboard.press("Enter")
    chips = page.locator("ol.near li").filter(has_text="no KL").locator(".name")
    assert [chip.get_attribute("title") for chip in chips.all()] == [near["neighbor"]]
    page.locator("ol.near .pairing").first.click()
    assert page.locator("#selection .chip", has_text="no KL").count() == 1
    assert "masked" in page.locator("#selection .identity").inner_text()
    path = add_column(made, tmp_path / "same.tsv", "likelihood", ["masked"] * 40)
    page = visit(write(tmp_path / "same", made.payload(models_path=path)))
    assert page.locator("#color option[value=likelihood]").count() == 0
    click(page, apart(page, made, 1)[0])
    assert "masked" in page.locator("#selection .identity").first.inner_text()
    assert page.locator("#selection .chip", has_text="no KL").count() == 0


def test_of_responses_the_page_says_whose_bytes_they_are(
    made: MapFiles, visit: Open, tmp_path: Path
) -> None:
    manifest = files.read_json(made.path("texts.json"))
    files.write_json(tmp_path / "texts.json", {**manifest, "template": "none"})
    page = visit(write(tmp_path, made.payload(manifest_path=tmp_path / "texts.json")))
    name = apart(page, made, 1)[0]
    click(page, name)
    panel = page.locator("#selection").inner_text()
    assert "± error in bits per byte of the response" in panel
    assert "bits per byte of the response\t" in panel
    page.locator("ol.near .pairing").first.click()
    assert page.locator("#pair-kl").inner_text().endswith("bits per byte of the response")


def test_switches_show_lineage_runs_and_ellipses(page: Page, made: MapFiles) -> None:
    payload = made.payload()
    expected = {"lineage": len(payload["parents"]), "runs": len(payload["runs"]), "ellipses": 40}
    assert min(expected.values()) > 0
    for name, number in expected.items():
        switch = page.locator(f"[data-switch={name}]")
        switch.set_checked(True)
        assert shown(page, name) == number
        switch.set_checked(False)
        assert shown(page, name) == 0
    assert page.locator("[data-switch=names]").is_checked()
    assert shown(page, "names") > 0
    page.locator("[data-switch=names]").uncheck()
    until(page, "klmap.shown('names') === 0")


def test_a_projection_has_a_ruler(made: MapFiles, visit: Open, tmp_path: Path) -> None:
    payload = made.payload()
    assert visit(made.path("map.html")).locator("#ruler").count() == 0
    page = visit(write(tmp_path, {**payload, "layout": {**payload["layout"], "method": "pca"}}))
    for _ in range(3):
        page.wait_for_timeout(80)
        kl = float(page.locator("#ruler span").inner_text().split()[1])
        width = page.locator("#ruler i").evaluate("one => parseFloat(one.style.width)")
        assert (width * page.evaluate("klmap.scales().x")) ** 2 == pytest.approx(kl, rel=1e-3)
        page.click("#zoom-in")


def draw(page: Page, corners: list[tuple[float, float]]) -> None:
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*corner, steps=6)
    page.mouse.up()


def test_a_lasso_selects_and_exports_every_column(page: Page, made: MapFiles) -> None:
    names = [model.model for model in made.models]
    places = page.evaluate("names => names.map((name) => klmap.where(name))", names)
    middle = sorted(place["x"] for place in places)[20]
    inside = {name for name, place in zip(names, places, strict=True) if place["x"] < middle - 2}
    page.click("#tool-lasso")
    top, bottom = 75, 770
    draw(page, [(700, top), (middle - 2, top), (middle - 2, bottom), (260, bottom), (260, top)])
    until(page, "klmap.selected().length > 2")
    assert set(selected(page)) <= set(names)
    chosen = selected(page)
    assert 2 < len(chosen) < 40
    assert set(chosen) <= inside
    assert f"{len(chosen)} models selected" in page.locator("#selection h2").inner_text()
    with page.expect_download() as download:
        page.click("#export")
    assert download.value.suggested_filename == "selection.tsv"
    table = Path(download.value.path()).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(table), delimiter="\t"))
    source = {row["model"]: row for row in files.read_tsv(made.path("models.tsv"))}
    places_of = {row["model"]: row for row in files.read_tsv(made.path("layout.tsv"))}
    assert [row["model"] for row in rows] == chosen
    for row in rows:
        original = source[row["model"]]
        assert set(row) == set(original) | {"x", "y"}
        assert float(row["x"]) == float(places_of[row["model"]]["x"])
        for name, cell in original.items():
            same = row[name] == cell or (cell and _alike(row[name], cell))
            assert same, (name, cell, row[name])


def _alike(found: str, cell: str) -> bool:
    """The same number, or the same moment written in another way."""
    if re.match(r"\d{4}-\d\d-\d\d", cell):
        return found[:16] == cell[:16]
    return float(found) == float(cell)


def test_a_box_selects_and_shift_adds(page: Page, made: MapFiles) -> None:
    first, second = apart(page, made)
    page.click("#tool-box")
    for name, key in ((first, ""), (second, "Shift")):
        place = page.evaluate("name => klmap.where(name)", name)
        if key:
            page.keyboard.down(key)
        draw(page, [(place["x"] - 5, place["y"] - 5), (place["x"] + 5, place["y"] + 5)])
        if key:
            page.keyboard.up(key)
        until(page, "name => klmap.selected().includes(name)", name)
    assert set(selected(page)) == {first, second}


def test_exported_text_is_no_formula(made: MapFiles, visit: Open, tmp_path: Path) -> None:
    payload = made.payload()
    licence = next(column for column in payload["columns"] if column["name"] == "license")
    licence["levels"] = ['=HYPERLINK("http://x")', "-1.5", "+cmd|' /C calc'!A0", 'say "a\tb"'][
        : len(licence["levels"])
    ]
    page = visit(write(tmp_path, payload))
    page.click("#tool-box")
    draw(page, [(262, 70), (950, 780)])
    until(page, "klmap.selected().length > 30")
    with page.expect_download() as download:
        page.click("#export")
    table = Path(download.value.path()).read_text(encoding="utf-8")
    cells = {row["license"] for row in csv.DictReader(io.StringIO(table), delimiter="\t")}
    assert {'\'=HYPERLINK("http://x")', "-1.5", "'+cmd|' /C calc'!A0"} <= cells
    assert cells <= {'\'=HYPERLINK("http://x")', "-1.5", "'+cmd|' /C calc'!A0", 'say "a b"', ""}


def test_a_link_opens_the_same_view(page: Page, made: MapFiles, visit: Open) -> None:
    first, second = apart(page, made)
    click(page, first)
    click(page, second, "Shift")
    page.select_option("#color", "bits_per_byte")
    page.locator("[data-switch=ellipses]").check()
    page.mouse.move(600, 400)
    page.mouse.wheel(0, -200)
    until(page, "location.hash.includes('view=') && location.hash.includes('ellipses')")
    page.wait_for_timeout(400)
    again = visit(made.path("map.html"), "#" + page.url.partition("#")[2])
    assert selected(again) == [first, second]
    assert again.locator("#color").input_value() == "bits_per_byte"
    assert again.locator("[data-switch=ellipses]").is_checked()
    for name in (first, second):
        here, there = (p.evaluate("name => klmap.where(name)", name) for p in (page, again))
        assert (there["x"], there["y"]) == pytest.approx((here["x"], here["y"]), abs=1.5)
    assert again.locator("#pair-kl b").inner_text() == page.locator("#pair-kl b").inner_text()
    page.go_back()
    until(page, "klmap.selected().length === 1")
    assert selected(page) == [first]
    page.go_forward()
    until(page, "klmap.selected().length === 2")


def test_a_link_to_unknown_models_is_answered_politely(made: MapFiles, visit: Open) -> None:
    known = made.models[4].model
    page = visit(made.path("map.html"), f"#m={quote(known)}&m=gone--model&color=nothing&view=a+b+c")
    assert selected(page) == [known]
    assert "no model “gone--model”" in page.locator("#notice").inner_text()
    assert page.locator("#color").input_value() == "family"


def test_a_hostile_link_runs_nothing(made: MapFiles, visit: Open) -> None:
    text = quote('"><img src=x onerror="window.owned=1"><script>window.owned=1</script>')
    page = visit(made.path("map.html"), f"#m={text}&m=__proto__&color={text}")
    expected = ["Map of 40 language models on demo", None, 0]
    assert page.evaluate(OWNED) == expected
    for part in ("color=__proto__", *(f"{key}={text}" for key in ("hide", "show", "q", "view"))):
        page.evaluate("part => { location.hash = part; }", part)
        page.wait_for_timeout(60)
        assert page.evaluate(OWNED) == expected
    assert selected(page) == []


def test_hostile_names_are_shown_as_they_are(visit: Open, tmp_path: Path) -> None:
    hostile = write_map(tmp_path / "hostile", 24, n_domains=6, hostile=True)
    page = visit(write(hostile.folder, hostile.payload()))
    title = page.evaluate("document.title")
    for row in (0, 1, 2, 8):
        name = hostile.models[row].model
        page.fill("#search", name)
        page.keyboard.press("Enter")
        assert name in selected(page)
        assert page.locator("#selection h2").first.inner_text().strip() == " ".join(name.split())
        page.locator(".sparks").first.hover()
    page.keyboard.press("Escape")
    for option in ("license", "base_model", "family"):
        page.select_option("#color", option)
        page.locator(".entry").first.hover()
    page.click("#see-table")
    assert page.locator("#models tbody tr").count() == 24
    assert page.evaluate(OWNED) == [title, None, 0]
    assert HOSTILE[0] in title


def test_everything_can_be_done_with_the_keyboard(page: Page, made: MapFiles) -> None:
    name = made.models[11].model
    page.keyboard.press("/")
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    assert selected(page) == [name]
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(110):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {
        "search", "see-map", "see-table", "link", "theme", "keys", "plot", "color", "entry",
        "tool-pan", "tool-lasso", "tool-box", "zoom-in", "zoom-out", "zoom-all", "term", "icon",
    } <= reached  # fmt: skip
    assert {"name", "compare"} <= reached
    page.keyboard.press("Escape")
    assert selected(page) == []
    page.focus("#plot")
    before = page.evaluate("name => klmap.where(name)", name)
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(60)
    after = page.evaluate("name => klmap.where(name)", name)
    assert after["x"] < before["x"]
    scale = page.evaluate("klmap.scales().x")
    page.keyboard.press("+")
    assert page.evaluate("klmap.scales().x") < scale
    page.keyboard.press("0")
    page.wait_for_timeout(60)
    assert page.evaluate("name => klmap.where(name)", name) == pytest.approx(before, abs=0.5)
    page.keyboard.press("Enter")
    assert len(selected(page)) == 1
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    assert len(selected(page)) == 1


def brightness(page: Page, selector: str, what: str) -> float:
    color = page.evaluate(
        "([selector, what]) => getComputedStyle(document.querySelector(selector))[what]",
        [selector, what],
    )
    return sum(map(float, re.findall(r"[\d.]+", color)[:3])) / 3


def test_light_and_dark(made: MapFiles, visit: Open) -> None:
    for scheme, is_dark in (("light", False), ("dark", True)):
        page = visit(made.path("map.html"), color_scheme=scheme)
        assert (brightness(page, "#stage", "backgroundColor") < 60) == is_dark
        assert (brightness(page, "body", "color") > 150) == is_dark
        page.click("#theme")
        assert (brightness(page, "#stage", "backgroundColor") < 60) != is_dark
        page.reload()
        until(page, "window.klmap")
        assert (brightness(page, "#stage", "backgroundColor") < 60) != is_dark


def test_a_phone_shows_all_of_it(made: MapFiles, visit: Open) -> None:
    page = visit(made.path("map.html"), **PHONE)
    first, second = apart(page, made)

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        small = page.evaluate(
            """() => [...document.querySelectorAll("button, select, summary, input, .switch")]
            .filter((one) => one.offsetParent && !one.matches(".switch input"))
            .map((one) => [one.id || one.className || one.textContent, one.offsetHeight])
            .filter(([, height]) => height < 40)"""
        )
        assert small == []

    fits()
    assert page.locator("#legend .inside").is_hidden()
    page.tap("#legend summary")
    assert page.locator("#color").is_visible()
    fits()
    page.tap("#legend summary")
    place = page.evaluate("name => klmap.where(name)", first)
    page.touchscreen.tap(place["x"], place["y"])
    until(page, "klmap.selected().length === 1")
    fits()
    page.locator("#compare").scroll_into_view_if_needed()
    page.tap("#compare")
    page.evaluate("scrollTo(0, 0)")
    place = page.evaluate("name => klmap.where(name)", second)
    page.touchscreen.tap(place["x"], place["y"])
    until(page, "klmap.selected().length === 2")
    assert selected(page) == [first, second]
    fits()
    page.tap("#see-table")
    fits()


def test_the_table_sorts_and_filters(page: Page, made: MapFiles) -> None:
    page.click("#see-table")
    rows = page.locator("#models tbody tr")
    assert rows.count() == 40

    def column(number: int) -> list[str]:
        return page.locator(f"#models tbody tr > :nth-child({number})").all_inner_texts()

    names = column(1)
    assert [name.strip() for name in names] == sorted(model.model for model in made.models)
    page.click("[data-sort=bits_per_byte]")
    at = page.locator("#models thead th").evaluate_all(
        "all => all.findIndex((head) => head.ariaSort === 'ascending') + 1"
    )
    values = [float(text) for text in column(at)]
    assert values == sorted(values)
    page.click("[data-sort=bits_per_byte]")
    assert [float(text) for text in column(at)] == sorted(values, reverse=True)
    page.fill("#search", made.models[0].family)
    expected = [m.model for m in made.models if m.family == made.models[0].family]
    assert f"{len(expected)} of 40" in page.locator("#shown").inner_text()
    page.locator("#models tbody tr").first.locator("td").first.click()
    assert len(selected(page)) == 1
    page.click("#only")
    assert [name.strip() for name in column(1)] == selected(page)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_models(visit: Open, tmp_path: Path, count: int) -> None:
    made = write_map(tmp_path / "demo", count)
    page = visit(write(made.folder, made.payload()))
    assert shown(page, "points") == count
    click(page, made.models[0].model)
    assert page.locator("ol.near li").count() == count - 1
    page.click("#see-table")
    assert page.locator("#models tbody tr").count() == count


def test_without_scripts_the_page_says_where_the_tables_are(made: MapFiles, visit: Open) -> None:
    page = visit(made.path("map.html"), java_script_enabled=False)
    assert "neighbors.tsv" in page.locator(".noscript").inner_text()


@pytest.mark.parametrize(("count", "megabytes"), [(1018, 6), (10_000, 25)])
def test_large_maps_open_and_answer(
    visit: Open, tmp_path: Path, count: int, megabytes: float
) -> None:
    made = write_map(tmp_path / "demo", count, n_domains=17)
    path = write(made.folder, made.payload())
    assert path.stat().st_size < megabytes * 1e6
    page = visit(path)
    assert shown(page, "points") == count
    name = made.models[count // 2].model
    page.fill("#search", name)
    page.keyboard.press("Enter")
    assert name in selected(page)
    assert page.locator("ol.near li").count() == 10
    page.click("#clear")
    page.click("#see-table")
    assert page.locator("#models tbody tr").count() == 100
    page.click("#more")
    assert page.locator("#models tbody tr").count() == 200
