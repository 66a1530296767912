"""The page: how long it takes to write, how large it is, and how it feels in a real browser.

Made-up models on 2,000 texts of 22 domains. Pages are opened from the disk in headless Chromium,
whose frames are painted by the CPU: a browser with a graphics card is faster. The peer is the
page that Bokeh itself writes for a plain scatter plot of the same points, names on hover.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playwright.sync_api import Page, sync_playwright
from tests.pagefiles import write_map

ROOT = Path(__file__).resolve().parents[1]
TEXTS = 2000
DOMAINS = 22
STEPS = 60
REPEATS = 5
WINDOW = {"width": 1280, "height": 800}
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
RECORD_STEPS = """() => {
  for (const name of ["wheel", "pointermove"]) {
    window.addEventListener(name, () => {
      const begin = performance.now();
      window.benchStep = new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(
        () => done(performance.now() - begin),
      )));
    }, { capture: true });
  }
}"""
RECORD_EVENTS = """() => {
  window.benchEvents = [];
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.benchEvents.push([entry.name, entry.duration]);
  }).observe({ type: "event", durationThreshold: 16 });
}"""
IDLE = """() => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle
  && (window.benchIdle ??= performance.now())"""
RECOLOR = """(name) => new Promise((done) => {
  const menu = document.querySelector("#color");
  const begin = performance.now();
  menu.value = [...menu.options].map((option) => option.value).find((v) => v.includes(name));
  menu.dispatchEvent(new Event("change", { bubbles: true }));
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin)));
})"""
SHORTEST = 16
"""Events that are shown in less than so many ms are not told apart by the browser."""


@dataclass
class Felt:
    """What one page was like, in ms."""

    megabytes: float
    ready: float
    steps: list[float]


def built(folder: Path) -> tuple[Path, float, float]:
    """The page with the seconds and the GB that writing it took, as a process of its own."""
    page = folder / "map.html"
    command = [
        sys.executable, str(ROOT / "scripts" / "explorer.py"),
        "--models", "models.tsv", "--layout", "layout.tsv", "--layout-report", "layout.json",
        "--neighbors-table", "neighbors.tsv", "--kl", "kl.h5", "--matrix", "matrix.h5",
        "--manifest", "texts.json", "--ellipses", "ellipses.tsv", "--page", page.name,
    ]  # fmt: skip
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"explorer.py failed: {said}")
    return page, time.perf_counter() - start, usage.ru_maxrss / 2**20


def plain(folder: Path) -> Path:
    """Bokeh's own page of the same points."""
    from bokeh.embed import file_html
    from bokeh.models import ColumnDataSource
    from bokeh.palettes import Category20
    from bokeh.plotting import figure
    from bokeh.resources import INLINE

    from klmap import files, models_table

    models = models_table.read_models(folder / "models.tsv")
    rows = files.read_tsv(folder / "layout.tsv")
    families = sorted({model.family for model in models})
    source = ColumnDataSource(
        {
            "x": [float(row["x"]) for row in rows],
            "y": [float(row["y"]) for row in rows],
            "name": [model.model for model in models],
            "family": [model.family for model in models],
            "color": [Category20[20][families.index(model.family) % 20] for model in models],
        }
    )
    plot = figure(
        tools="pan,wheel_zoom,reset,hover,tap",
        active_scroll="wheel_zoom",
        tooltips=[("name", "@name"), ("family", "@family")],
        sizing_mode="stretch_both",
    )
    plot.scatter("x", "y", size=6, color="color", source=source)
    page = folder / "plain.html"
    page.write_text(file_html(plot, INLINE, "plain"), encoding="utf-8")
    return page


def felt(page: Page, path: Path, ready: str) -> Felt:
    """Load a page several times, then move about in it."""
    times = []
    for _ in range(REPEATS):
        page.goto("about:blank")
        page.goto(path.as_uri())
        times.append(float(page.wait_for_function(ready).json_value()))
    page.wait_for_timeout(500)
    return Felt(path.stat().st_size / 1e6, statistics.median(times), moved(page))


def moved(page: Page) -> list[float]:
    """From each turn of the wheel, and each move of the hand, to the frame after the next."""
    x, y = WINDOW["width"] * 0.4, WINDOW["height"] * 0.55
    page.mouse.move(x, y)
    page.evaluate(RECORD_STEPS)
    taken = []
    for step in range(STEPS // 2):
        page.mouse.wheel(0, -60 if step < STEPS // 4 else 60)
        taken.append(float(page.evaluate("() => window.benchStep")))
    page.mouse.down()
    for step in range(STEPS // 2):
        page.mouse.move(x + 6 * step, y + 3 * step)
        taken.append(float(page.evaluate("() => window.benchStep")))
    page.mouse.up()
    return taken


def shown(page: Page, action: Any, *kinds: str) -> float:
    """How long until what somebody did is on the screen: the longest of its events, 0 if short."""
    page.wait_for_timeout(300)
    page.evaluate("() => { window.benchEvents.length = 0; }")
    action()
    longest = 0.0
    for _ in range(10):
        page.wait_for_timeout(100)
        events = page.evaluate("() => window.benchEvents")
        longest = max((taken for name, taken in events if name in kinds), default=0.0)
        if longest:
            break
    return longest


def act(page: Page, names: list[str]) -> dict[str, float]:
    """Search, select and colour; the median of several times each."""
    page.evaluate(RECORD_EVENTS)
    taken: dict[str, list[float]] = {"search": [], "click": [], "color": []}
    chosen = random.Random(0).sample(names, REPEATS)
    for name in chosen:
        page.locator("#search").click()
        page.wait_for_timeout(200)
        for letter in name.partition("--")[2][:6]:
            press = functools.partial(page.keyboard.press, letter)
            taken["search"].append(shown(page, press, "keydown", "keypress", "input"))
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
    for name in chosen:
        place = page.evaluate("(name) => window.klmap.where(name)", name)
        page.keyboard.press("Escape")
        click = functools.partial(page.mouse.click, place["x"], place["y"])
        took = shown(page, click, "pointerup", "click")
        if page.evaluate("() => window.klmap.selected().length"):
            taken["click"].append(took)
    for column in ("bits_per_byte", "parameters", "license", "created_at", "family"):
        taken["color"].append(float(page.evaluate(RECOLOR, column)))
        page.wait_for_timeout(200)
    return {name: statistics.median(values) for name, values in taken.items()}


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def told(value: float) -> str:
    return f"{value:.0f}" if value > SHORTEST else f"< {SHORTEST}"


def measured(folder: Path, count: int, chromium: str) -> tuple[str, list[str], str]:
    """Rows of the three tables for so many models."""
    made = write_map(folder, count, TEXTS, DOMAINS)
    own, seconds, memory = built(folder)
    size = own.stat().st_size / 1e6
    building = f"| {count:,} | {seconds:.1f} | {memory:.2f} | {size:.1f} |"
    feeling = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        page = browser.new_page(viewport=WINDOW)
        for name, path, ready in (
            ("Bokeh, plain", plain(folder), IDLE),
            ("klmap", own, "window.klmap && window.klmap.ready"),
        ):
            print(f"{name} ...", file=sys.stderr)
            found = felt(page, path, ready)
            median, late = statistics.median(found.steps), p95(found.steps)
            feeling.append(
                f"| {count:,} | {name} | {found.megabytes:.1f} | {found.ready:,.0f} | "
                f"{median:.0f} | {late:.0f} |"
            )
        took = act(page, [model.model for model in made.models])
        browser.close()
    search, click = told(took["search"]), told(took["click"])
    return building, feeling, f"| {count:,} | {search} | {click} | {took['color']:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[1018, 10_000])
    args = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not installed")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for count in args.models:
            print(f"{count} models ...", file=sys.stderr)
            folder = Path(place) / str(count)
            folder.mkdir()
            rows.append(measured(folder, count, chromium))
            shutil.rmtree(folder)
    print("Writing the page, from the map's files.\n")
    print("| models | seconds | peak memory (GB) | size (MB) |\n|---:|---:|---:|---:|")
    print("\n".join(building for building, _, _ in rows))
    print(f"\nOpening it from the disk, median of {REPEATS}; then zooming and dragging in {STEPS}")
    print("steps, each from the event to the second frame after it, 17 ms at the least.\n")
    print("| models | page | size (MB) | ready after (ms) | step, median (ms) | 95 % (ms) |")
    print("|---:|---|---:|---:|---:|---:|")
    print("\n".join(line for _, lines, _ in rows for line in lines))
    print("\nTime until the answer is on the screen, medians.\n")
    print("| models | a letter in the search (ms) | a click on a model (ms) | new colours (ms) |")
    print("|---:|---:|---:|---:|")
    print("\n".join(doing for _, _, doing in rows))


if __name__ == "__main__":
    main()
