"""A real browser, for pages: Debian's chromium without a window, and axe-core inside it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.processes import PATIENCE

_AXE = "axe-core@4.14.1"
_AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
"""Of its axe.min.js. Licence: MPL-2.0; fetched for tests alone, and no part of the package."""

_CONTRAST = {
    "ignoreLength": True,  # Else a single character, as most cells of a matrix, is not judged.
    "ignoreUnicode": True, "ignorePseudo": False, "pseudoSizeThreshold": 0.25,
    "boldValue": 700, "boldTextPt": 14, "largeTextPt": 18,
    "shadowOutlineEmMax": 0.2, "textStrokeEmMin": 0.03,
    "contrastRatio": {"normal": {"expected": 4.5}, "large": {"expected": 3}},
}  # fmt: skip


class Browser:
    """Chromium, showing one page at a time."""

    def __init__(self, axe: Path) -> None:
        """`axe`: see `fetch_axe`. Skips the test where there is no chromium."""
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if not chromium or not driver:
            pytest.skip("needs chromium and chromedriver: apt-get install chromium-driver")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        # Not its sandbox, which root can't have: it opens our own pages alone.
        for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(driver))
        self.axe = axe.read_text(encoding="utf-8")

    def open(self, page: Path | str, width: int = 1280, *, dark: bool = False) -> None:
        """Show a file or an address, so many CSS pixels wide; below 500 as a telephone does."""
        self._devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", features=[scheme])
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)  # Read, it is empty.
        self.driver.get(page if isinstance(page, str) else page.resolve().as_uri())

    def console(self) -> list[str]:
        """What went to the console since the page was opened, the browser's own words too."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses asked for since the page was opened, the page's among them."""
        messages = (json.loads(e["message"])["message"] for e in self.driver.get_log("performance"))
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.driver.execute_script(f"return ({expression})")

    def accessibility(self) -> tuple[list[str], list[str]]:
        """What axe-core finds wrong, and what it can't judge: each a rule, and the element."""
        contrast = {"checks": [{"id": "color-contrast", "options": _CONTRAST}]}
        self.driver.execute_script(f"{self.axe}; axe.configure({json.dumps(contrast)})")
        found = self.driver.execute_async_script("axe.run(document).then(arguments[0])")
        wrong, unjudged = (
            [f"{rule['id']}: {node['html']}" for rule in found[kind] for node in rule["nodes"]]
            for kind in ("violations", "incomplete")
        )
        assert len(found["passes"]) > 20, "it has looked"
        return wrong, unjudged

    def print(self) -> bytes:
        """A PDF of the page as it comes out of a printer, on A4."""
        printed = self._devtools("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(printed["data"])

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()

    def _devtools(self, command: str, **parameters: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.driver.execute_cdp_cmd(command, parameters)
        return answer


def fetch_axe() -> Path:
    """axe-core's script, fetched by npm once and kept with the user's caches; skips without npm."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lenet_dist"
    script = cache / f"{_AXE}.min.js"
    npm = shutil.which("npm")
    if not script.exists():
        if npm is None:
            pytest.skip(f"needs {_AXE}, and npm to fetch it: apt-get install npm")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            fetched = subprocess.run(
                [npm, "pack", _AXE, "--silent", "--pack-destination", folder],
                capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
                timeout=PATIENCE,
            )  # fmt: skip
            archive = next(Path(folder).glob("*.tgz"), None)
            if archive is None:
                pytest.skip(f"needs {_AXE}, which npm could not fetch: {fetched.stderr.strip()}")
            with tarfile.open(archive) as members:
                member = members.extractfile("package/axe.min.js")
                assert member is not None
                whole = Path(folder) / "axe.min.js"
                whole.write_bytes(member.read())
            whole.rename(script)
    digest = hashlib.sha256(script.read_bytes()).hexdigest()
    assert digest == _AXE_SHA256, f"{script} is not {_AXE}'s: remove it"
    return script
