"""`hguard ask` on a real server: nobody takes an unscored answer for a good one, and no model steers a terminal."""

import json
from contextlib import contextmanager

import pytest

from service.cli.main import main
from tests.contract.cli.terminal import ask, fails, run, run_at_terminal
from tests.keys import write_keys
from tests.serving import make_parts, serve_on_port

pytestmark = pytest.mark.usefixtures("as_a_client")
ANSWER = "The answer is Paris."


@contextmanager
def serve_with_fault(fault, **settings):
    """One that begins after the start, or the golden trace would find it."""
    parts = make_parts()
    with serve_on_port(parts, **settings) as address:
        parts.engine.fault = fault
        yield address


def test_the_answer_goes_to_standard_output_alone_and_its_judgement_to_standard_error(capsys, url):
    status, out, err = ask(capsys, "Where?", "--url", url)
    assert (status, out) == (0, ANSWER + "\n")
    lines = dict(line.split(maxsplit=1) for line in err.splitlines())
    assert lines.keys() == {"risk", "action", "status", "span", "probe"}
    assert lines["risk"].endswith("threshold 0.500")
    assert (lines["action"], lines["status"], lines["probe"]) == ("none", "scored", "fake@0")
    assert lines["span"].startswith('"Paris" risk 0.')


def test_the_words_say_what_the_server_said(capsys, url):
    _, _, err = ask(capsys, "Where?", "--url", url, "--explain")
    _, out, _ = ask(capsys, "Where?", "--url", url, "--explain", "--json")
    guard = json.loads(out)["choices"][0]["guard"]
    assert f"{guard['risk']:.3f}, threshold {guard['threshold']:.3f}" in err
    assert err.count("\nneuron ") == len(guard["explain"]) > 0


@pytest.mark.parametrize(
    ("policy", "threshold", "status", "shown", "words"),
    [
        ("flag", 0.01, 3, ANSWER, "FLAGGED"),
        ("flag", 0.99, 0, ANSWER, "none"),
        ("annotate", 0.01, 0, ANSWER, "none"),
        ("block", 0.01, 3, "", "BLOCKED"),
        ("block", 0.99, 0, ANSWER, "none"),
        ("abstain", 0.01, 3, "I am not sure enough to answer that.", "ABSTAINED"),
        ("off", 0.01, 0, ANSWER, "not scored: the policy is off"),
    ],
)
def test_a_script_learns_from_the_exit_code_whether_the_guard_acted(
    capsys, url, policy, threshold, status, shown, words
):
    options = ["Where?", "--url", url, "--policy", policy, "--threshold", str(threshold)]
    found, out, err = ask(capsys, *options)
    assert (found, out.strip()) == (status, shown)
    assert words in err
    assert ask(capsys, *options, "--json")[0] == status
    assert (ANSWER in out + err) == (shown == ANSWER)


def test_a_budget_is_a_threshold_and_a_wrong_one_is_refused_in_words(capsys, url):
    assert "threshold 0.900" in ask(capsys, "Where?", "--url", url, "--threshold", "fpr:0.05")[2]
    assert "fpr:0.05" in fails(capsys, "Where?", "--url", url, "--threshold", "a lot")
    assert "unknown_budget" in fails(capsys, "Where?", "--url", url, "--threshold", "fpr:0.3")


def test_an_answer_without_a_score_is_no_low_risk(capsys):
    with serve_with_fault("nan_scores", on_error="fail_open") as address:
        for option in ((), ("--policy", "block"), ("--json",)):
            status, out, err = ask(capsys, "Where?", "--url", address, *option)
            assert status == 4
            assert "Paris" in out
            assert ("NOT SCORED" in err and "risk    none" in err) or option == ("--json",)
            assert " 0.0" not in err


def test_an_answer_that_fail_closed_withholds_is_an_error(capsys):
    with serve_with_fault("nan_scores") as address:
        status, _, err = ask(capsys, "Where?", "--url", address)
    assert status == 1
    assert "guard_unavailable" in err


def test_an_engine_that_breaks_in_the_middle_is_an_error(capsys):
    with serve_with_fault("crash") as address:
        status, out, err = ask(capsys, "Where?", "--url", address)
    assert status == 1
    assert ANSWER.startswith(out.strip())
    assert out.strip() != ANSWER
    assert err.count("\n") == 1


def test_no_model_steers_the_terminal(capsys):
    reply = "It is \x1b]0;title\x07\x1b[2Jred\x9b31m, not \u202eblue\u2028and \x85so on."
    with serve_on_port(make_parts(reply=lambda _: reply)) as address:
        _, out, err = ask(capsys, "Where?", "--url", address)
    assert out == "It is \ufffd]0;title\ufffd\ufffd[2Jred\ufffd31m, not \ufffdblue\u2028and \ufffdso on.\n"
    assert not set("\x1b\x07\x9b\u202e") & set(err)


def test_colours_are_for_terminals_and_for_those_who_want_them(url, tmp_path):
    coloured = run_at_terminal("ask", "Where?", "--url", url, cwd=tmp_path)
    assert coloured.count("\x1b[38;5;") > 10
    assert len({part.partition("m")[0] for part in coloured.split("\x1b[38;5;")[1:]}) > 3  # by risk, not one for all
    plain = [
        run_at_terminal("ask", "Where?", "--url", url, cwd=tmp_path, NO_COLOR="1"),
        run_at_terminal("ask", "Where?", "--url", url, "--no-color", cwd=tmp_path),
        run("ask", "Where?", "--url", url, cwd=tmp_path, TERM="xterm-256color").stdout,
    ]
    for text in plain:
        assert ANSWER in text
        assert "\x1b" not in text


def test_a_question_from_a_pipe_and_options_that_reach_the_engine(capsys, url, tmp_path):
    done = run("ask", "-", "--max-tokens", "3", cwd=tmp_path, stdin="Where?\n", HGUARD_URL=url)
    assert (done.returncode, done.stdout) == (4, "The\n")  # nothing is claimed yet, so nothing is scored
    assert "no factual claim" in done.stderr
    with pytest.raises(SystemExit) as stop:
        main(["ask", " ", "--url", url])
    assert stop.value.code == 2


@pytest.mark.parametrize("options", [["\udcff"], ["Where?", "--threshold", "nan"], ["Where?", "--alpha", "inf"]])
def test_what_no_json_can_hold_is_refused_in_words(capsys, url, options):
    with pytest.raises(SystemExit) as stop:
        main(["ask", *options, "--url", url])
    assert stop.value.code == 2
    assert "UTF-8 text" in capsys.readouterr().err


def test_hazard_a_terminal_without_unicode_ends_in_a_traceback(tmp_path):
    with serve_on_port(make_parts(reply=lambda _: "It is Tōkyō.")) as address:
        done = run("ask", "Where?", "--url", address, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "It is T\\u014dky\\u014d.\n")


def test_the_server_is_found_by_its_own_settings(capsys, url, tmp_path, monkeypatch):
    (tmp_path / ".env").write_text(f"HGUARD_HOST=0.0.0.0\nHGUARD_PORT={url.rpartition(':')[2]}\n")
    assert ask(capsys, "Where?")[0] == 0
    monkeypatch.setenv("HGUARD_PORT", "0")
    assert "--url" in fails(capsys, "Where?")
    monkeypatch.setenv("HGUARD_PORT", "9")
    assert "hguard serve" in fails(capsys, "Where?")


def test_a_key_is_sent_and_a_missing_one_asked_for(capsys, tmp_path, monkeypatch):
    key = "key of infer"
    with serve_on_port(make_parts(), api_keys_file=write_keys(tmp_path)) as address:
        assert "--key-file" in fails(capsys, "Where?", "--url", address)
        (tmp_path / "key").write_text(key + "\n")
        assert ask(capsys, "Where?", "--url", address, "--key-file", "key")[0] == 0
        monkeypatch.setenv("HGUARD_CLIENT_KEY", key)
        assert ask(capsys, "Where?", "--url", address)[0] == 0
        monkeypatch.setenv("HGUARD_CLIENT_KEY", "schlüssel€")
        assert "schl" not in fails(capsys, "Where?", "--url", address)
        assert "No such file" in fails(capsys, "Where?", "--url", address, "--key-file", "nowhere")
        (tmp_path / "empty").write_text("")
        assert "an API key is one line" in fails(capsys, "Where?", "--url", address, "--key-file", "empty")
