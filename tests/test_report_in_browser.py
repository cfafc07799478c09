"""report.html in a browser: on a telephone or a desk, light, dark and on paper."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lenet_dist.report import page
from lenet_dist.run_dir import reader
from tests.browser import Browser, fetch_axe
from tests.commands import command, succeeded

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser(fetch_axe())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pages(
    interrupted: Path, unfinished: Path, several: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:  # fmt: skip
    folder = tmp_path_factory.mktemp("pages")
    return {
        "one run": page.write([reader.read(interrupted)], folder / "one.html"),
        "unfinished": page.write([reader.read(unfinished)], folder / "unfinished.html"),
        "several runs": page.write(list(map(reader.read, several)), folder / "several.html"),
    }


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [
        ("one run", 360, False),
        ("one run", 1280, True),
        ("unfinished", 1280, False),
        ("several runs", 360, True),
        ("several runs", 1280, False),
    ],
)
def test_in_a_browser_a_page_is_quiet_alone_and_accessible(
    browser: Browser, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    browser.open(pages[name], width, dark=dark)
    outside = [url for url in browser.requests() if not url.startswith("data:")]
    assert outside == [pages[name].resolve().as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(RIGHTMOST) <= width - 16, "something reaches over the page's margin"
    # A plot's text is 10 of its own pixels high.
    assert 10 * browser.evaluate(LEAST_SCALE_OF_PLOTS) >= 9
    assert browser.evaluate(BROKEN_PICTURES) == 0
    assert browser.console() == []
    wrong, unjudged = browser.accessibility()
    assert wrong == []
    if width == 1280:  # On a telephone a part of a wide table is hidden until it is scrolled to.
        assert unjudged == []


RIGHTMOST = """
Math.max(...[...document.querySelectorAll("body *:not(.scroll *)")]
    .map(element => element.getBoundingClientRect().right))"""
LEAST_SCALE_OF_PLOTS = """
Math.min(...[...document.querySelectorAll(".plots img")]
    .map(image => image.getBoundingClientRect().width / 360))"""
BROKEN_PICTURES = "[...document.images].filter(image => !image.naturalWidth).length"


def test_on_paper_a_page_is_light_and_shows_the_whole_config(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    if shutil.which("pdftotext") is None:
        pytest.skip("needs pdftotext: apt-get install poppler-utils")
    browser.open(pages["one run"], dark=True)
    printed = tmp_path / "page.pdf"
    printed.write_bytes(browser.print())
    assert "timeout_seconds: 600" in succeeded(command("pdftotext", str(printed), "-")).stdout
