"""The playground before services that are slow, closed, failing or gone, and before text that looks like markup."""

import httpx
import pytest

from tests.e2e.browser import chromium, visit, wait_for
from tests.keys import write_keys
from tests.running_service import running_service
from tests.serving import make_parts, serve_on_port

pytestmark = pytest.mark.slow

MARKUP = (
    "The <b>answer</b> is <img src=x onerror=document.title='owned'> Paris & <script>document.title='owned'</script>."
)


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


def test_hazard_an_answer_that_broke_off_looks_like_an_answer(browser, tmp_path):
    with (
        running_service(tmp_path, fake_step_s=0.2) as service,
        visit(browser, service.address, expected="net::ERR") as here,
    ):
        here.ask("q")
        wait_for(lambda: len(here.tokens()) > 2)
        service.process.kill()
        here.answered()
        assert here.text(".badge") == "error"
        assert "The connection ended before the answer was complete." in here.text(".words")
        assert "incomplete" in here.text(".fix")
        assert "never judged" in here.text(".dial-label")
        assert here.text(".dial-value") == "not scored"
        assert here.page.is_disabled("button[value=faithful]")
        wait_for(lambda: "unreachable" in here.text("#ready"))
        here.ask("q")
        here.answered()
        assert "The service cannot be reached." in here.text(".words")


def test_hazard_a_stream_that_a_proxy_ends_politely_looks_like_an_answer(browser):
    with serve_on_port(make_parts()) as address, visit(browser, address) as here:
        body = {"prompt": "q", "stream": True, "guard": {"return_tokens": True}}
        whole = httpx.post(f"{address}/generate", json=body).text
        cut = whole[: whole.index("event: done")]
        kind = "text/event-stream"
        here.page.route("**/generate", lambda route: route.fulfill(body=cut, content_type=kind))
        here.ask("q")
        here.answered()
        assert (here.text(".badge"), here.text(".dial-value")) == ("error", "not scored")
        assert here.text(".history small") == "error"
        assert "The connection ended before the answer was complete." in here.text(".words")


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stopping_ends_the_generation(browser, how):
    parts = make_parts(step_seconds=0.1)
    with serve_on_port(parts) as address, visit(browser, address) as here:
        here.ask("q")
        wait_for(lambda: len(here.tokens()) > 2)
        assert parts.engine.running == 1
        if how == "button":
            here.page.click("#stop")
        else:
            here.page.keyboard.press("Escape")
        here.answered()
        assert here.text(".badge") == "stopped by you"
        assert here.text(".dial-value") == "not scored"
        wait_for(lambda: parts.engine.running == 0, 10)
        assert "hguard_client_disconnects_total 1.0" in httpx.get(f"{address}/metrics").text


def test_a_key_is_asked_for_and_kept_in_this_tab_alone(browser, tmp_path):
    with (
        serve_on_port(make_parts(), api_keys_file=write_keys(tmp_path)) as address,
        visit(browser, address, expected="401") as here,
    ):
        wait_for(lambda: here.page.is_visible("#key-dialog"))
        here.page.fill("#key", "key of nobody")
        here.page.press("#key", "Enter")
        wait_for(lambda: "valid API key" in here.text("#key-message") and here.page.is_visible("#key-dialog"))
        here.page.fill("#key", "key of infer")
        here.page.press("#key", "Enter")
        wait_for(lambda: here.text("#probe") == "fake@0")
        here.ask("q")
        here.answered()
        assert here.text(".badge") in ("under threshold", "over threshold")
        kept = here.page.evaluate("[JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage})]")
        assert ["key of" in one for one in kept] == [False, True]
        assert not [one.url for one in here.requests if "key of" in one.url]
        here.page.click("#key-button")
        here.page.click("#key-forget")
        here.ask("q")
        wait_for(lambda: here.page.is_visible("#key-dialog"))
        here.page.click("#key-cancel")
        here.answered()
        assert "send a valid API key" in here.text(".words")


def test_a_key_without_the_scope_is_refused_in_the_services_words(browser, tmp_path):
    with (
        serve_on_port(make_parts(), api_keys_file=write_keys(tmp_path)) as address,
        visit(browser, address, expected="40") as here,
    ):
        wait_for(lambda: here.page.is_visible("#key-dialog"))
        here.page.fill("#key", "key of metrics")
        here.page.press("#key", "Enter")
        wait_for(lambda: here.text("#probe") == "fake@0")
        here.ask("q")
        here.answered()
        assert "this API key does not have the scope infer" in here.text(".words")


def test_hazard_markup_becomes_elements(browser):
    parts = make_parts(reply=lambda _: MARKUP)
    with serve_on_port(parts) as address, visit(browser, address) as here:
        here.page.check("#keep")
        here.page.fill("#max-tokens", "400")
        here.ask(MARKUP)
        here.answered()
        assert here.page.locator(".tokens").text_content() == MARKUP
        assert here.text(".asked") == here.text(".history-question") == MARKUP
        here.page.reload()
        here.page.click("#history button")
        assert here.page.locator(".tokens").text_content() == MARKUP
        assert here.page.locator("#answers :is(b, img, script), #history :is(b, img, script)").count() == 0
        assert here.page.title() == "hguard playground"


@pytest.mark.parametrize("on_error", ["fail_closed", "fail_open"])
def test_hazard_a_missing_score_looks_like_a_low_one(browser, on_error):
    parts = make_parts(locator="response")
    with serve_on_port(parts, on_error=on_error) as address, visit(browser, address) as here:
        parts.engine.fault = "nan_scores"  # once its golden trace has passed
        here.ask("q")
        here.answered()
        assert here.text(".badge") == {"fail_closed": "error", "fail_open": "not scored"}[on_error]
        assert here.text(".dial-value") == "not scored"
        if on_error == "fail_closed":
            assert "guard_unavailable" in here.text(".words")
            return
        last = here.tokens()[-1]
        assert (last["percent"], "risk-none" in last["classes"]) == ("\N{EN DASH}", True)
        here.page.locator(".token").last.hover()
        assert here.numbers()["Risk"] == "not scored"


def test_no_claim_and_no_guard_have_looks_of_their_own(browser):
    with serve_on_port(make_parts(reply=lambda _: "I don't know.")) as address, visit(browser, address) as here:
        looks = {}
        for policy in ("annotate", "off"):
            here.page.select_option("#policy", policy)
            here.ask("q")
            here.answered()
            assert here.text(".dial-value") == "not scored"
            looks[here.text(".badge")] = here.page.evaluate(
                "getComputedStyle(document.querySelector('.badge')).borderStyle"
            )
        assert looks == {"no claim found": "dashed", "guard off": "dotted"}


def test_a_wrong_option_is_refused_in_the_services_words(browser):
    with serve_on_port(make_parts()) as address, visit(browser, address, expected="422") as here:
        here.page.select_option("#threshold", "number")
        here.page.fill("#threshold-number", "7")
        here.ask("q")
        here.answered()
        body = {"prompt": "q", "guard": {"threshold": 7}}
        assert httpx.post(f"{address}/generate", json=body).json()["error"]["message"] in here.text(".words")


def test_history_is_kept_only_where_it_was_asked_for(browser):
    with serve_on_port(make_parts()) as address, visit(browser, address) as here:
        for kept in (False, True):
            here.page.set_checked("#keep", kept)
            here.ask("Where is it?")
            here.answered()
            stored = here.page.evaluate("JSON.stringify({...localStorage})")
            assert ("Where is it?" in stored) == kept
            here.page.reload()
            assert (here.page.locator("#history button").count() > 0) == kept
        here.page.click("#clear")
        assert here.page.locator("#history button").count() == 0
        assert "Where is it?" not in here.page.evaluate("JSON.stringify({...localStorage})")
