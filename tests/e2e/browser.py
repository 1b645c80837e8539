"""
A headless Chromium, and a fleet that has something to show.

    python -m tests.e2e.browser docs/page.png [dark] [phone]     a picture of it
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from tests.e2e.harness import PATIENCE_S, RunningDaemon
from tests.e2e.test_http import free_port, write_token
from tests.nvml.fake import FakeBox

LIE_STILL = "scrollTo(0, 0); document.activeElement.blur(); document.documentElement.style.overflow = 'hidden'"
TOKEN = "a-token-of-the-browser-test-0123"
GIB = 2**30
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"
"""What a worker may well print, or call itself."""

FILE = """\
services:
  llm:
    command: &says "sh -c 'echo serving; exec sleep 1000'"
    workers: 2
    resources: {{gpu: 1, gpu_memory: 40GiB}}
    ready: {{after: 50ms}}
  embed:
    command: *says
    workers: 2
    resources: {{gpu: 0.5, gpu_memory: 8GiB}}
    ready: {{after: 50ms}}
    env: {{SECRET: hunter2}}
  rerank:
    command: ["sh", "-c", "echo 'loading {evil}'; echo 'torch.OutOfMemoryError: CUDA out of memory.'; exit 1"]
    resources: {{gpu: 1}}
    restart: {{delay: 10m, max_delay: 10m}}
  nightly:
    command: "true"
    restart: {{policy: never}}
daemon: {{http: "127.0.0.1:{port}", http_token_file: "{token}"}}
"""


class Scene:
    """
    A daemon with GPUs, workers that run, one that fails, and somebody else's process.

    Args:
        home: An empty folder.
    """

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.box = FakeBox(home / "box", gpus=4)
        for at, uuid in enumerate(self.box.uuids):
            self.box.change(uuid, gpu_percent=(96, 88, 41, 0)[at], celsius=(71, 68, 52, 33)[at])
            self.box.change(uuid, milliwatts=(655_000, 610_000, 240_000, 71_000)[at])
        token = write_token(home, TOKEN)
        place = home / "fleet"
        place.mkdir()
        self.daemon = RunningDaemon(place, FILE.format(port=self.port, token=token, evil=EVIL), box=self.box)

    def settle(self) -> None:
        """Return when everybody is where they stay, with memory on their GPUs."""
        states = {"llm": "ready", "embed": "ready", "rerank": "backoff", "nightly": "exited"}
        workers = self.daemon.wait_states(**states)
        for name, size in (("llm/0", 38.2), ("llm/1", 36.9), ("embed/0", 7.1), ("embed/1", 6.4)):
            self.box.claim(workers[name]["pid"], workers[name]["gpus"][0]["uuid"], int(size * GIB))
        self.box.claim(self.daemon.pid, self.box.uuids[1], int(9.5 * GIB))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


def find_browser() -> str | None:
    """Why there is none, None if there is one."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(missing)} here (Debian: chromium, chromium-driver)" if missing else None


@contextmanager
def browsing(*, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Chrome]:
    """A browser with a profile of its own, of which nothing is left."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = str(shutil.which("chromium"))
        for word in (
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions"),
            *("--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}"),
        ):
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        browser = Chrome(options, Service(str(shutil.which("chromedriver"))))
        try:
            browser.set_page_load_timeout(PATIENCE_S)
            _look_like(browser, width, height, dark=dark)
            yield browser
        finally:
            browser.quit()


def _look_like(browser: Chrome, width: int, height: int, *, dark: bool) -> None:
    shape: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    colours = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": colours})


def take_picture(file: Path, *, dark: bool, phone: bool) -> None:
    """Of the page's beginning, unlocked, with one worker opened."""
    from tests.e2e.test_page import opened, unlock

    with tempfile.TemporaryDirectory() as home:
        scene = Scene(Path(home))
        try:
            scene.settle()
            with browsing(width=320 if phone else 1180, height=960, dark=dark) as browser:
                browser.get(scene.url)
                unlock(browser)
                opened(browser, "rerank/0")
                browser.execute_script(LIE_STILL)
                browser.save_screenshot(str(file))
        finally:
            scene.daemon.end()


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]), dark="dark" in sys.argv, phone="phone" in sys.argv)
