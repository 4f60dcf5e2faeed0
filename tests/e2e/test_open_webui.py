"""Open WebUI, the real server, with deploy/integrations/open_webui_filter.py installed through its own API.

The environment is made once (three minutes, 2.9 GB); the server takes about 40 s to start.
"""

from types import SimpleNamespace

import pytest

from tests.e2e.litellm_gateway import running, start_hguard
from tests.e2e.open_webui import OpenWebUI, said, start_open_webui, texts_of
from tests.e2e.test_litellm import CLEAN, RISKY
from tests.e2e.upstream import serve_upstream
from tests.serving import QUESTION

pytestmark = pytest.mark.slow

NOBODY = "http://127.0.0.1:9"
WITHHELD = "This answer was withheld."


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open-webui")
    with serve_upstream() as upstream:
        hguard, server = start_hguard(folder), start_open_webui(folder, upstream.address)
        with running(hguard, server):
            webui = OpenWebUI(server, folder)
            try:
                webui.install()
                yield SimpleNamespace(upstream=upstream, hguard=hguard, webui=webui)
            finally:
                webui.close()


@pytest.fixture
def setup(stack):
    def choose(reply, **valves):
        stack.upstream.reply = reply
        stack.webui.set(**{"url": stack.hguard.address, "threshold": 0.7, **valves})
        return stack.webui

    return choose


@pytest.mark.parametrize("stream", [True, False])
def test_hazard_a_blocked_answer_is_seen_before_it_is_withheld(setup, stream):
    """In the history, and on the browser's socket: no word of it."""
    message, received = setup(RISKY).chat(QUESTION, stream=stream)
    assert message["content"] == WITHHELD
    assert message["output"][0]["content"][0]["text"] == WITHHELD
    assert said(message) == ["hguard: withheld, risk 0.81, threshold 0.70"]
    assert WITHHELD in received
    assert not any(word in received for word in ("harbour", "Marseille", "1602"))


def test_a_clean_answer_arrives_whole_with_its_risk(setup):
    message, received = setup(CLEAN).chat(QUESTION)
    assert message["content"].strip() == CLEAN
    assert said(message) == ["hguard: risk 0.52"]
    assert "risk 0.52" in received


def test_a_program_that_streams_gets_the_verdict_in_the_stream(setup):
    assert texts_of(setup(RISKY).ask(QUESTION)) == (WITHHELD, ["content_filter"])
    text, reasons = texts_of(setup(CLEAN).ask(QUESTION))
    assert (text.strip(), reasons) == (CLEAN, ["stop"])


def test_hazard_a_program_that_does_not_stream_gets_the_answer_unjudged(setup):
    answer = setup(RISKY).ask(QUESTION, stream=False)
    assert answer.status_code == 400
    assert "hguard can hold streams only" in answer.text
    assert "Marseille" not in answer.text


@pytest.mark.parametrize("policy", ["flag", "annotate"])
def test_looking_on_streams_as_ever_and_shows_the_risk(setup, policy):
    message, received = setup(RISKY, policy=policy).chat(QUESTION)
    assert message["content"].strip() == RISKY
    over = " is not below the threshold 0.70" if policy == "flag" else ""
    assert said(message) == [f"hguard: risk 0.81{over}"]
    assert received.index("harbour") < received.index("hguard: risk")


def test_hazard_a_guard_that_is_down_lets_answers_past_without_a_word(setup):
    message, received = setup(CLEAN, url=NOBODY).chat(QUESTION)
    assert message["content"] == WITHHELD
    assert said(message) == ["hguard: withheld, not judged: ConnectError (fail_closed)"]
    assert "hundreds" not in received
    message, _ = setup(CLEAN, url=NOBODY, on_error="fail_open").chat(QUESTION)
    assert message["content"].strip() == CLEAN
    assert said(message) == ["hguard: NOT judged: ConnectError"]


def test_a_refused_question_is_not_judged_and_says_why(setup, stack):
    message, _ = setup(CLEAN).chat([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}])
    assert message["content"] == WITHHELD
    assert said(message) == ["hguard: withheld, not judged: 422 validation_error (fail_closed)"]
