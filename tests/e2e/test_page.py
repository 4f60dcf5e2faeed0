"""The playground in headless Chromium, before the real default model: what it shows is what the API says."""

import os

import httpx
import pytest

from tests.e2e.browser import chromium, visit, wait_for
from tests.running_service import running_service

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of Japan?"
WRONG = "Who wrote the novel Middlemarch?"
"""Answered wrongly and at length."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def address(tmp_path_factory, browser):
    folder = tmp_path_factory.mktemp("page")
    cache = {"cache": os.environ["HGUARD_CACHE"]} if "HGUARD_CACHE" in os.environ else {}
    url = f"sqlite:///{folder}/feedback.db"
    with running_service(folder, engine="transformers", device="cpu", feedback_url=url, **cache) as service:
        yield service.address


def ask_api(address, question, max_tokens=128, alpha=1.0):
    guard = {"return_tokens": True, "explain": True, "alpha": alpha}
    body = {"prompt": question, "sampling": {"max_tokens": max_tokens}, "guard": guard}
    answer = httpx.post(f"{address}/generate", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def shown(value, digits=3):
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def neurons_of(here):
    """(neuron, contribution) of each row."""
    rows = here.page.locator(".neurons li")
    return [
        (rows.nth(at).locator("span").first.text_content(), rows.nth(at).locator(".figure").text_content())
        for at in range(rows.count())
    ]


def neuron_rows(shares):
    signs = ["+" * (share["contribution"] > 0) for share in shares]
    return [
        (f"layer {share['layer']}, no. {share['neuron']}", sign + shown(share["contribution"], 2))
        for sign, share in zip(signs, shares, strict=True)
    ]


def luminance(colour):
    """WCAG's, of `rgb(...)`."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """WCAG's ratio of two colours."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_a_real_answer_shows_the_numbers_of_the_api(browser, address):
    expected = ask_api(address, QUESTION)
    guard = expected["guard"]
    with visit(browser, address) as here:
        wait_for(lambda: here.text("#probe") == f"{guard['probe']['name']}@{guard['probe']['version']}")
        assert here.text("#threshold option") == f"own ({guard['threshold']:.3f})"
        here.ask(QUESTION)
        partial = wait_for(here.tokens)
        place = here.page.locator(".inspect").bounding_box()
        assert len(partial) < len(guard["tokens"]), "nothing was seen before the end"
        here.answered()
        tokens = here.tokens()
        assert here.page.locator(".inspect").bounding_box() == place, "the layout has jumped"
        assert here.page.locator(".tokens").text_content() == expected["text"]
        assert [one["percent"] for one in tokens] == [str(round(100 * one["risk"])) for one in guard["tokens"]]
        bands = [min(int(one["risk"] * 5), 4) for one in guard["tokens"]]
        assert all(f"risk-{band}" in one["classes"] for band, one in zip(bands, tokens, strict=True))
        assert len({one["background"] for one in tokens}) == len(set(bands)) > 1
        underlined = [i for i, one in enumerate(tokens) if one["line"] == "underline"]
        assert underlined == [i for span in guard["spans"] for i in range(span["token_start"], span["token_end"])] != []
        assert here.text(".dial-value") == shown(guard["risk"])
        assert "under threshold" in here.text("#live")
        assert shown(guard["risk"]) in here.text("#live")
        assert "the whole answer" in here.text(".neurons .hint")
        assert neurons_of(here) == neuron_rows(guard["explain"])
        here.page.locator(".token").nth(underlined[0]).hover()
        rows, pointed = here.numbers(), guard["tokens"][underlined[0]]
        assert f"token {underlined[0] + 1} alone" in here.text(".neurons .hint")
        assert neurons_of(here) == neuron_rows(pointed["explain"]) != neuron_rows(guard["explain"])
        assert rows["Log-probability"] == shown(pointed["logprob"])
        assert (rows["Entropy (nats)"], rows["Risk"]) == (shown(pointed["entropy"]), shown(pointed["risk"]))
        here.page.click("button[value=faithful]")
        wait_for(lambda: here.text(".feedback-state") == "Kept. Thank you.")
        here.page.click("button[value=hallucinated]")
        wait_for(lambda: "in place of" in here.text(".feedback-state"))


def test_two_alphas_stand_side_by_side_under_one_seed(browser, address):
    with visit(browser, address) as here:
        here.page.fill("#max-tokens", "12")
        here.page.fill("#alpha", "0")
        here.ask(WRONG)
        here.answered()
        assert here.page.locator(".answer .title").all_text_contents() == ["Baseline, alpha 1", "Suppressed, alpha 0"]
        for at, alpha in enumerate([1.0, 0.0]):
            expected = ask_api(address, WRONG, 12, alpha)
            answer = here.page.locator(".answer").nth(at)
            assert answer.locator(".tokens").text_content() == expected["text"]
            assert answer.locator(".dial-value").text_content() == shown(expected["guard"]["risk"])
        left, right = (here.page.locator(".answer").nth(at).bounding_box() for at in (0, 1))
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] < right["x"]
        here.page.fill("#temperature", "0.8")
        here.ask(QUESTION)
        here.answered()
        baseline, scaled = here.bodies()[-2:]
        assert baseline["sampling"]["seed"] == scaled["sampling"]["seed"] is not None
        assert (baseline["guard"]["alpha"], scaled["guard"]["alpha"]) == (1, 0)
        assert f"seed {baseline['sampling']['seed']}" in here.text(".figures")


@pytest.mark.parametrize("policy", ["block", "abstain"])
def test_hazard_a_withheld_answer_stays_somewhere_in_the_page(browser, address, policy):
    word = max((one["text"].strip() for one in ask_api(address, WRONG, 16)["guard"]["tokens"]), key=len)
    assert len(word) > 5
    with visit(browser, address) as here:
        here.page.check("#keep")
        here.page.select_option("#policy", policy)
        here.page.select_option("#threshold", "number")
        here.page.fill("#threshold-number", "0.05")
        here.page.fill("#max-tokens", "16")
        here.ask(WRONG)
        here.answered()
        assert here.text(".badge") == {"block": "blocked", "abstain": "replaced"}[policy]
        everything = here.page.content() + here.page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")
        assert WRONG in everything
        assert word not in everything.replace(WRONG, "")
        assert not here.tokens()
        assert here.page.is_disabled("button[value=faithful]")
        said = "The text was withheld." if policy == "block" else "I am not sure enough to answer that."
        assert here.text(".replaced") == said


def test_the_keyboard_alone_is_enough(browser, address):
    with visit(browser, address) as here:
        keyboard = here.page.keyboard
        keyboard.press("Tab")
        assert here.page.evaluate("document.activeElement.className") == "skip"
        keyboard.press("Enter")
        keyboard.press("Tab")  # the link set the start; the question is the first thing behind it
        if here.page.evaluate("document.activeElement.id") != "question":
            keyboard.press("Shift+Tab")
        assert here.page.evaluate("document.activeElement.id") == "question"
        keyboard.type(QUESTION)
        keyboard.press("Enter")
        here.answered()
        for _ in range(30):
            keyboard.press("Tab")
            if here.page.evaluate("document.activeElement.classList.contains('token')"):
                break
        assert here.numbers()["Token"].startswith("1: ")
        keyboard.press("ArrowRight")
        assert here.numbers()["Token"].startswith("2: ")
        assert "risk 0." in here.page.evaluate("document.activeElement.ariaLabel")
        keyboard.press("End")
        assert here.numbers()["Token"].startswith(f"{len(here.tokens())}: ")
        keyboard.press("Tab")
        assert here.page.evaluate("document.activeElement.value") == "faithful", "tokens are one stop of the tab key"


@pytest.mark.parametrize("width", [1280, 360])
def test_dark_and_light_can_be_read_on_wide_and_narrow_screens(browser, address, width):
    seen = set()
    with visit(browser, address, viewport={"width": width, "height": 740}, color_scheme="dark") as here:
        here.ask(QUESTION)
        here.answered()
        for theme in ("auto", "light", "dark"):
            here.page.select_option("#theme", theme)
            wait_for(lambda: here.page.evaluate("document.getAnimations().length") == 0)
            tokens = here.page.evaluate(
                "[...document.querySelectorAll('#legend li, .token')].map((one) => {"
                "const s = getComputedStyle(one); return [s.color, s.backgroundColor]})"
            )
            assert min(contrast(*colours) for colours in tokens) >= 4.5, theme
            scale = [luminance(paper) for _, paper in tokens[-5:]]
            assert scale == sorted(scale, reverse=theme == "light"), "the order must not hang on hue"
            seen.add((theme, here.page.evaluate("getComputedStyle(document.body).backgroundColor")))
        assert here.page.evaluate("document.documentElement.scrollWidth") <= width
    papers = dict(seen)
    assert papers["auto"] == papers["dark"] != papers["light"]
