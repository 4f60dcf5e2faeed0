"""The playground before answers and stored data that it does not know: nothing looks clean, and nothing sticks."""

import json

import httpx
import pytest

from tests.e2e.browser import chromium, visit, wait_for
from tests.keys import write_keys
from tests.serving import make_parts, serve_on_port

pytestmark = pytest.mark.slow

OVERRIDE, REPLACED = "\u202e", "\ufffd"


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def address(browser):
    with serve_on_port(make_parts(reply=lambda _: f"It is {OVERRIDE}Paris now.")) as at:
        yield at


def answer_with(here, address, change):
    """Let the page read a real stream whose events `change(name, data)` has altered; None leaves the event out."""
    body = {"prompt": "q", "stream": True, "guard": {"return_tokens": True}}
    blocks = []
    for block in httpx.post(f"{address}/generate", json=body).text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in lines:
            data = change(lines["event"], json.loads(lines["data"]))
            if data is not None:
                blocks.append(f"event: {lines['event']}\ndata: {json.dumps(data)}\n\n")
    stream = "".join(blocks)
    here.page.route("**/generate", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))


@pytest.mark.parametrize("fields", [{"status": "of the future"}, {"risk": None}, {"risk": "0.1"}, {"threshold": None}])
def test_hazard_what_has_no_score_looks_clean(browser, address, fields):
    with visit(browser, address) as here:
        answer_with(here, address, lambda name, data: {**data, **fields} if name == "guard" else data)
        here.ask("q")
        here.answered()
        assert here.text(".badge") == "not scored"
        assert here.page.get_attribute(".answer", "data-kind") == "failed"
        assert "Treat it as unguarded" in here.text(".fix")


def test_hazard_an_answer_that_nobody_judged_is_taken_as_one(browser, address):
    with visit(browser, address) as here:
        answer_with(here, address, lambda name, data: None if name == "guard" else data)
        here.ask("q")
        here.answered()
        assert here.text(".badge") == "error"
        assert "without judging it" in here.text(".words")
        assert here.page.is_disabled("button[value=faithful]")


def test_hazard_an_answer_of_another_form_blocks_the_page(browser, address):
    with visit(browser, address, expected="TypeError") as here:
        answer_with(here, address, lambda name, data: {**data, "choices": []} if name == "done" else data)
        here.ask("q")
        here.answered()
        assert (here.text(".badge"), here.text(".dial-value")) == ("error", "not scored")
        here.page.unroute("**/generate")
        here.ask("q")
        wait_for(lambda: here.text(".badge") in ("under threshold", "over threshold"))


def test_hazard_the_model_turns_the_reading_direction(browser, address):
    with visit(browser, address) as here:
        here.ask("q")
        here.answered()
        assert here.page.locator(".tokens").text_content() == f"It is {REPLACED}Paris now."
        assert OVERRIDE not in here.page.content()
        assert here.page.get_attribute(".tokens", "dir") == "auto"
        answer_with(
            here,
            address,
            lambda name, data: (
                {**data, "spans": [{**one, "text": f"{OVERRIDE}a"} for one in data["spans"]]}
                if name == "guard"
                else data
            ),
        )
        here.ask("q")
        wait_for(lambda: here.page.locator(".spans .span-text").count() and here.text(".span-text") == f"{REPLACED}a")


@pytest.mark.parametrize(
    "kept",
    [
        "{}",
        "null",
        '"x"',
        "[{}]",
        "not json",
        '{"version": 1, "entries": [null, {"question": "old", "runs": [{}]}, {"question": "old", "runs": 7}]}',
        '{"version": 1, "entries": [{"question": "old", "runs": [{"state": "done", "guard": {}}]}]}',
    ],
)
def test_hazard_kept_history_of_another_form_takes_the_page_away(browser, address, kept):
    with visit(browser, address) as here:
        here.page.evaluate("(kept) => localStorage.setItem('hguard.history', kept)", kept)
        here.page.reload()
        wait_for(lambda: here.text("#ready") == "ready")
        while here.page.locator("#history button").count():  # what looked well but cannot be shown goes at the click
            here.page.click("#history button")
        here.ask("q")
        here.answered()
        here.page.reload()
        assert here.text(".history-question") == "q"


@pytest.mark.parametrize("store", ["localStorage", "sessionStorage"])
def test_hazard_a_browser_that_denies_its_stores_has_no_page(browser, address, store):
    denied = f"Object.defineProperty(window, '{store}', {{get() {{ throw new DOMException('no', 'SecurityError'); }}}})"
    with visit(browser, address) as here:
        here.page.add_init_script(denied)
        here.page.reload()
        wait_for(lambda: here.text("#probe") == "fake@0")
        here.page.click("#keep")
        assert here.page.is_checked("#keep") == (store == "sessionStorage")
        here.page.select_option("#theme", "dark")
        here.ask("q")
        here.answered()
        assert here.page.locator("#history button").count() == 1


def test_hazard_a_second_tab_wipes_what_the_first_keeps(browser, address):
    with visit(browser, address) as here:
        other = here.page.context.new_page()
        other.goto(address)
        here.page.check("#keep")
        here.ask("of the first tab")
        here.answered()
        other.fill("#question", "of the second tab")
        other.press("#question", "Enter")
        wait_for(lambda: other.locator("#history button").count() == 1)
        kept = here.page.evaluate("localStorage['hguard.history'] ?? ''")
        assert ("of the first tab" in kept, "of the second tab" in kept) == (True, False)
        other.check("#keep")
        kept = here.page.evaluate("localStorage['hguard.history'] ?? ''")
        assert ("of the first tab" in kept, "of the second tab" in kept) == (True, True)
        here.page.uncheck("#keep")
        assert here.page.evaluate("localStorage['hguard.history'] ?? ''") == ""


@pytest.mark.parametrize("said", ['{"error": {"message": "no"}}', "null", "[]", "<html>"])
def test_hazard_one_odd_readyz_stops_the_asking(browser, address, said):
    with visit(browser, address, expected="500") as here:
        here.page.clock.install()
        here.page.route("**/readyz", lambda route: route.fulfill(body=said, status=500))
        here.page.reload()
        wait_for(lambda: here.text("#ready") == "unreachable")
        here.page.unroute("**/readyz")
        here.page.clock.run_for(6000)
        wait_for(lambda: here.text("#ready") == "ready" and here.text("#probe") == "fake@0")


@pytest.mark.parametrize("said", ["<html>a proxy</html>", "null"])
def test_hazard_one_odd_version_leaves_the_header_empty(browser, address, said):
    with visit(browser, address, expected="TypeError") as here:
        here.page.clock.install()
        here.page.route("**/version", lambda route: route.fulfill(body=said))
        here.page.reload()
        wait_for(lambda: here.page.is_visible("#notice") and "service" in here.text("#notice"))
        here.page.unroute("**/version")
        here.page.clock.run_for(6000)
        wait_for(lambda: here.text("#probe") == "fake@0")


@pytest.mark.parametrize("how", ["cancel", "escape"])
def test_hazard_the_dialog_for_a_key_comes_back_at_once(browser, tmp_path, how):
    with (
        serve_on_port(make_parts(), api_keys_file=write_keys(tmp_path)) as closed,
        visit(browser, closed, expected="401") as here,
    ):
        wait_for(lambda: here.page.is_visible("#key-dialog"))
        here.page.fill("#key", "k\u20acy")
        here.page.press("#key", "Enter")
        wait_for(lambda: "no API key" in here.text("#key-message"))
        here.page.click("#key-cancel")
        here.ask("q")
        wait_for(lambda: here.page.is_visible("#key-dialog"))
        if how == "cancel":
            here.page.click("#key-cancel")
        else:
            here.page.keyboard.press("Escape")
        here.answered()
        assert "send a valid API key" in here.text(".words")
        here.page.wait_for_timeout(500)
        assert not here.page.is_visible("#key-dialog")
