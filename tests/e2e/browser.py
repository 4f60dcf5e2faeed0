"""Headless Chromium on the playground, and what no visit may do: leave the origin, or log an error."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
LOOK = """() => [...document.querySelectorAll('.token')].map((one) => {
  const style = getComputedStyle(one);
  return {text: one.textContent, percent: one.dataset.percent, background: style.backgroundColor,
          ink: style.color, line: style.textDecorationLine, classes: [...one.classList]};
})"""


def wait_for(condition: Any, seconds: float = 60) -> Any:
    """What it returns once that is true; Playwright's own wait evaluates strings in the page, which the CSP forbids."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


@dataclass
class Visit:
    """A page that is open, in a context of its own."""

    page: Any
    requests: list[Any] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def ask(self, question: str) -> None:
        """Type it and press Enter; returns at once."""
        self.page.fill("#question", question)
        self.page.press("#question", "Enter")

    def answered(self, seconds: float = 60) -> None:
        """Wait for the end, whatever it is."""
        wait_for(lambda: self.page.is_enabled("#send") and self.page.query_selector(".answer"), seconds)

    def tokens(self) -> list[dict[str, Any]]:
        """Each token's text and looks."""
        return self.page.evaluate(LOOK)

    def text(self, selector: str) -> str:
        """Of the first such element."""
        return self.page.locator(selector).first.text_content()

    def numbers(self) -> dict[str, str]:
        """The rows of the token that is pointed at."""
        rows = self.page.locator(".numbers-list").first.locator("div")
        return dict(rows.nth(at).locator("dt, dd").all_text_contents() for at in range(rows.count()))

    def bodies(self) -> list[dict[str, Any]]:
        """What was sent to /generate."""
        return [one.post_data_json for one in self.requests if one.url.endswith("/generate")]


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Debian's, without a download; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: tests/debian-packages.txt")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses root
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def visit(browser: Any, address: str, *, expected: str = "", **context: Any) -> Iterator[Visit]:
    """Open the page; at the end no request may have left the origin, and nothing but `expected` may be in the log."""
    opened = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    visited = Visit(opened.new_page())
    visited.page.on("request", lambda request: visited.requests.append(request))
    visited.page.on("console", lambda said: visited.errors.append(said.text) if said.type == "error" else None)
    visited.page.on("pageerror", lambda error: visited.errors.append(str(error)))
    visited.page.goto(address)
    try:
        yield visited
        left = [one.url for one in visited.requests if not one.url.startswith(f"{address}/")]
        assert not left, "a request left the origin"
        assert not [text for text in visited.errors if not (expected and expected in text)]
    finally:
        opened.close()
