"""The web page in a real browser: what it shows, what it asks first, and what it needs the token for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.common.exceptions import NoSuchElementException, WebDriverException
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.e2e.browser import EVIL, TOKEN, Scene, browsing, find_browser
from tests.e2e.harness import PATIENCE_S

WHY_NOT = find_browser()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = Scene(tmp_path_factory.mktemp("t"))
    scene.settle()
    yield scene
    scene.daemon.end()


def wait(browser: Chrome, condition: Callable[[Chrome], Any], what: str) -> Any:
    """Until the page is so; what it says then is part of the failure."""
    try:
        return WebDriverWait(browser, PATIENCE_S, ignored_exceptions=[WebDriverException]).until(condition)
    except WebDriverException:
        raise AssertionError(f"waited in vain: {what}\n{text(browser)}\n{browser.get_log('browser')}") from None  # type: ignore[no-untyped-call]


def text(browser: Chrome, css: str = "body") -> str:
    return str(browser.find_element(By.CSS_SELECTOR, css).text)


def says(browser: Chrome, words: str, css: str = "body") -> None:
    wait(browser, lambda _: words in text(browser, css), f"{words!r} in {css}")


def button(browser: Chrome, name: str, css: str = "body") -> Any:
    """By what a screen reader calls it."""
    for one in browser.find_elements(By.CSS_SELECTOR, f"{css} button"):
        if one.accessible_name == name and one.is_displayed():
            return one
    raise NoSuchElementException(name)


def press(browser: Chrome, name: str, css: str = "body") -> None:
    """As soon as it is there: the page may be about to change."""
    wait(browser, lambda _: button(browser, name, css).click() or True, f"a button {name!r}")


def unlock(browser: Chrome, token: str = TOKEN) -> None:
    press(browser, "Unlock")
    browser.find_element(By.ID, "secret").send_keys(token, Keys.ENTER)
    if token == TOKEN:
        says(browser, "live", "#live")


def opened(browser: Chrome, worker: str) -> None:
    """Show more of a worker."""
    press(browser, worker, "td.name")
    wait(browser, lambda _: browser.find_element(By.ID, f"w-{worker}-more").is_displayed(), worker)


def complaints(browser: Chrome) -> list[Any]:
    """What the browser has to say of the page: broken scripts, and everything that its rules forbid."""
    return [one for one in browser.get_log("browser") if one["level"] in {"SEVERE", "WARNING"}]  # type: ignore[no-untyped-call]


def asked_hosts(browser: Chrome) -> set[str]:
    """Every host that a request went to."""
    found = set()
    for entry in browser.get_log("performance"):  # type: ignore[no-untyped-call]
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = urlsplit(message["params"]["request"]["url"])
            found |= {url.netloc} if url.scheme in {"http", "https", "ws", "wss"} else set()
    return found


def test_without_the_token_one_sees_how_it_stands_and_can_change_nothing(scene: Scene) -> None:
    """GPUs with who is on them, workers with why; no lines of logs, no buttons; nothing is asked of anybody else."""
    with browsing() as browser:
        browser.get(scene.url)
        says(browser, "4 of 5 ready", "#verdict")
        assert "backoff" in text(browser, "#services")
        assert "1 not ready" in browser.title
        says(browser, "46", "#gpus")
        gpus = text(browser, "#gpus")
        for words in ("llm/0", "embed/1", "96 %", "71 °C", "655 W", "of 79.6 GiB", f" {scene.daemon.pid}"):
            assert words in gpus, words
        meter = browser.find_element(By.CSS_SELECTOR, "[role=meter]")
        assert meter.get_attribute("aria-valuetext").endswith("of 79.6 GiB")  # type: ignore[union-attr]

        opened(browser, "rerank/0")
        assert "shown with the token" in text(browser, "#services")
        assert "CUDA out of memory." not in browser.page_source.replace("CUDA out of memory (", "")
        names = {one.accessible_name for one in browser.find_elements(By.CSS_SELECTOR, "main button")}
        assert names == {"llm/0", "llm/1", "embed/0", "embed/1", "rerank/0", "nightly/0"}
        assert ink(browser) == "rgb(28, 35, 41)"
        assert asked_hosts(browser) == {f"127.0.0.1:{scene.port}"}
        assert complaints(browser) == []


def test_with_the_token_logs_and_events_are_live_and_changes_are_asked_twice(scene: Scene) -> None:
    """A wrong one opens nothing. What a worker has written is text, whatever it looks like."""
    with browsing() as browser:
        browser.get(scene.url)
        says(browser, "4 of 5 ready", "#verdict")
        unlock(browser, "wrong")
        says(browser, "That is not the token.", "#toast")
        assert complaints(browser) != []  # Of the 401 alone.
        unlock(browser)

        opened(browser, "rerank/0")
        says(browser, EVIL, "#services")
        assert browser.find_elements(By.CSS_SELECTOR, "main img, main script") == []
        browser.find_element(By.CSS_SELECTOR, "summary").click()
        says(browser, "CUDA_VISIBLE_DEVICES=", "#services")
        assert "hunter2" not in browser.page_source
        press(browser, "Log of rerank/0")
        says(browser, f"loading {EVIL}", "#lines")
        press(browser, "Close", "#log")

        before = scene.daemon.worker("llm/0")
        opened(browser, "llm/0")
        press(browser, "Restart llm/0")
        press(browser, "Cancel", "#sure")
        assert scene.daemon.worker("llm/0")["pid"] == before["pid"]
        press(browser, "Restart llm/0")
        press(browser, "Restart", "#sure")
        scene.daemon.wait(
            lambda workers: workers["llm/0"]["state"] == "ready" and workers["llm/0"]["pid"] != before["pid"], "restart"
        )
        wait(browser, lambda _: text(browser, "#events").count("llm/0") >= 3, "events")
        says(browser, f"pid {scene.daemon.worker('llm/0')['pid']}", "#services")

        press(browser, "Scale embed")
        count = browser.find_element(By.ID, "count")
        count.clear()
        count.send_keys("1", Keys.ENTER)
        says(browser, "1 of 1 ready, scaled by hand", "#services")
        press(browser, "Reload file")
        press(browser, "Reload", "#sure")
        says(browser, "embed/1 start", "#toast")
        says(browser, "2 of 2 ready", "#service-embed")
        press(browser, "Lock")
        wait(browser, lambda _: "shown with the token" in text(browser, "#services"), "locked")
        assert not browser.find_element(By.ID, "news").is_displayed()
        assert complaints(browser) == []


def test_it_fits_a_phone_is_dark_where_that_is_wanted_and_needs_no_mouse(scene: Scene) -> None:
    """At 320 pixels nothing is cut off sideways; everything is reached by Tab, and used by Enter and Escape."""
    with browsing(width=320, height=640, dark=True) as browser:
        browser.get(scene.url)
        says(browser, "of 5 ready", "#verdict")
        assert ink(browser) == "rgb(223, 229, 234)"
        assert width(browser) <= 320

        reach(browser, "Unlock").send_keys(Keys.ENTER)
        focused(browser).send_keys(TOKEN, Keys.ENTER)
        says(browser, "live", "#live")
        reach(browser, "rerank/0").send_keys(Keys.ENTER)
        wait(browser, lambda _: browser.find_element(By.ID, "w-rerank/0-more").is_displayed(), "more")
        assert focused(browser).accessible_name == "rerank/0"
        reach(browser, "Stop rerank/0").send_keys(Keys.ENTER)
        assert focused(browser).accessible_name == "Cancel"
        focused(browser).send_keys(Keys.ESCAPE)
        wait(browser, lambda _: not browser.find_element(By.ID, "sure").is_displayed(), "closed")
        assert scene.daemon.worker("rerank/0")["state"] != "stopped"
        assert width(browser) <= 320
        assert complaints(browser) == []


def width(browser: Chrome) -> int:
    """What would have to be scrolled to sideways is part of it."""
    return int(browser.execute_script("return document.documentElement.scrollWidth"))


def ink(browser: Chrome) -> str:
    return str(browser.execute_script("return getComputedStyle(document.body).color"))


def focused(browser: Chrome) -> Any:
    return browser.switch_to.active_element


def reach(browser: Chrome, name: str) -> Any:
    """By Tab alone; the focus must stay where it is while the page is drawn anew."""
    for _ in range(80):
        focused(browser).send_keys(Keys.TAB)
        if focused(browser).accessible_name == name:
            return focused(browser)
    raise AssertionError(f"Tab does not lead to {name!r}")


def test_the_page_says_that_nobody_answers_and_keeps_what_it_knew(scene: Scene) -> None:
    """The last of these: it ends the daemon."""
    with browsing() as browser:
        browser.get(scene.url)
        says(browser, "of 5 ready", "#verdict")
        known = text(browser, "#verdict")
        scene.daemon.end()
        says(browser, "no answer for", "#live")
        assert text(browser, "#verdict") == known
