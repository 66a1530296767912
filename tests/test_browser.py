"""The page in a real browser: it works from disk, says nothing on the console, asks nobody."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.project import Project

CHROMIUM = shutil.which("chromium")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser.new_page()
        browser.close()


def names(page: Page) -> list[str]:
    """Models of the rows that are shown, in their order."""
    rows = page.locator("tbody tr:visible")
    return [rows.nth(number).inner_text().split()[0] for number in range(rows.count())]


def test_the_page_searches_and_sorts(finished: Project, page: Page):
    complaints, asked = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = (finished.folder / "results/tiny/map.html").as_uri()
    page.goto(address)
    assert page.locator("svg").first.is_visible()
    assert names(page) == ["models--a", "models--b"]

    page.locator("input").fill("models--b")
    assert names(page) == ["models--b"]
    page.locator("input").fill("")

    by_name = page.locator("th button").first
    by_name.click()
    assert names(page) == ["models--b", "models--a"]
    by_name.click()
    assert names(page) == ["models--a", "models--b"]
    assert complaints == []
    assert asked == [address]
