"""The page to draw on: the real server, and a real browser that draws."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from tests.browser import Browser, fetch_axe
from tests.commands import forked, refusal
from tests.processes import PATIENCE, ROOT, free_port

pytestmark = pytest.mark.processes

DEMO = (sys.executable, "-m", "lenet_dist.demo")
Stroke = Sequence[tuple[float, float]]
ONE: list[Stroke] = [[(0.5, 0.15), (0.5, 0.5), (0.5, 0.85)]]
SEVEN: list[Stroke] = [[(0.25, 0.2), (0.5, 0.2), (0.72, 0.2), (0.58, 0.5), (0.45, 0.85)]]
ZERO: list[Stroke] = [
    [(0.5, 0.15), (0.32, 0.28), (0.27, 0.5), (0.32, 0.72), (0.5, 0.85), (0.68, 0.72), (0.73, 0.5),
     (0.68, 0.28), (0.5, 0.15)],
]  # fmt: skip


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page's address, while a server is there."""
    process = subprocess.Popen(
        [*DEMO, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process.stdout.readline().split()[0]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and errors == "", "Ctrl-C is how it ends"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    started = Browser(fetch_axe())
    yield started
    started.close()


def draw(browser: Browser, strokes: Sequence[Stroke]) -> None:
    """With the mouse; places are fractions of the drawing area's side."""
    canvas = browser.driver.find_element(By.ID, "drawing")
    box = canvas.rect
    for stroke in strokes:
        actions = ActionChains(browser.driver, duration=30)
        for number, (x, y) in enumerate(stroke):
            offset = round((x - 0.5) * box["width"]), round((y - 0.5) * box["height"])
            actions.move_to_element_with_offset(canvas, *offset)
            if number == 0:
                actions.click_and_hold()
        actions.release().perform()


def settled(browser: Browser) -> str:
    """The digit shown, when the page has the answer to all that was drawn."""
    deadline = time.monotonic() + PATIENCE
    while browser.driver.execute_script("return isAsking"):
        assert time.monotonic() < deadline, "no answer"
        time.sleep(0.02)
    return browser.driver.find_element(By.ID, "digit").text


def lit(browser: Browser) -> dict[str, int]:
    """How many maps of each kind are not black all over."""
    return browser.driver.execute_script(
        """return Object.fromEntries(Object.entries(maps).map(([name, canvases]) => [name,
            canvases.filter(c => c.getContext("2d").getImageData(0, 0, c.width, c.height).data
                .some((level, place) => place % 4 < 3 && level > 0)).length]))"""
    )


def test_what_is_drawn_is_recognised_as_one_draws_and_clear_empties_the_page(
    browser: Browser, address: str
) -> None:
    browser.open(address)
    assert settled(browser) == ""
    for digit, strokes in (("1", ONE), ("7", SEVEN), ("0", ZERO)):
        draw(browser, strokes)
        assert settled(browser) == digit
        shares = [bar.text for bar in browser.driver.find_elements(By.CSS_SELECTOR, "#bars .share")]
        assert len(shares) == 10
        assert sum(float(share.rstrip("%")) for share in shares) == pytest.approx(100, abs=1)
        shown = lit(browser)
        assert shown["input"] == 1 and shown["c1"] >= 3 and shown["c3"] >= 8
        browser.driver.find_element(By.ID, "clear").click()
        assert settled(browser) == ""
        assert lit(browser) == {"input": 0, "c1": 0, "c3": 0}
    assert browser.console() == []
    assert all(url.startswith((address, "data:")) for url in browser.requests())


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)])
def test_the_page_is_accessible_and_fits(
    browser: Browser, address: str, width: int, dark: bool
) -> None:
    browser.open(address, width, dark=dark)
    draw(browser, ZERO)
    settled(browser)
    while browser.evaluate("document.getAnimations().length"):  # The bars move.
        time.sleep(0.02)
    wrong, unjudged = browser.accessibility()
    assert not wrong and not unjudged
    assert browser.evaluate("document.documentElement.scrollWidth") == width


def answer(address: str, method: str, path: str, body: bytes = b"", host: str | None = None) -> int:
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=10)
    connection.request(method, path, body, {"Host": host} if host else {})
    return connection.getresponse().status


def test_only_drawings_and_only_by_this_machines_name_are_taken(address: str) -> None:
    drawing = bytes(140 * 140)
    for level in (0, 1, 255):  # Nothing is drawn on any of them.
        assert answer(address, "POST", "/look", bytes([level]) * 140 * 140) == 200
    assert answer(address, "POST", "/look", b"\1" + drawing[1:]) == 200
    assert answer(address, "GET", "/", host="evil.example") == 400
    assert answer(address, "POST", "/look", drawing, host="evil.example") == 400
    assert answer(address, "POST", "/look", drawing[1:]) == 400
    assert answer(address, "POST", "/look") == 400
    assert answer(address, "GET", "/look") == 404
    assert answer(address, "GET", "/../demo.py") == 404


def test_other_machines_can_not_reach_it(address: str) -> None:
    port = int(address.split(":")[2].rstrip("/"))
    with socket.socket() as other:
        other.settimeout(2)
        # Another of this machine's own addresses: what listens on all of them would answer.
        assert other.connect_ex(("127.0.0.2", port)) != 0


def test_a_wrong_request_is_one_line_and_exit_code_2() -> None:
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        for arguments, named in (
            (("--port", str(port)), f"--port {port}: "),
            (("--port", "70000"), "--port 70000: "),
            (("--host", "203.0.113.1"), "--host 203.0.113.1 --port 0: Cannot assign requested"),
            (("--weights", "README.md"), "README.md: not LeNet-5's weights"),
        ):
            assert named in refusal(forked("lenet_dist.demo", "--port", "0", *arguments))


def test_it_may_be_opened_to_other_machines() -> None:
    with subprocess.Popen(
        [*DEMO, "--port=0", "--host=0.0.0.0"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split("/")[2].split(":")[1])
        asked = http.client.HTTPConnection("127.0.0.2", port)
        asked.request("GET", "/", headers={"Host": "workstation.example"})
        assert asked.getresponse().status == 200
        process.kill()
