"""`hguard ask` and `hguard probes` before strange servers, proxies, files and interrupts."""

import http.server
import json
import signal
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest

from service.cli.main import main
from tests.contract.cli.terminal import COMMAND, ask, environment_of, fails
from tests.running_service import running_service
from tests.serving import make_parts, serve_on_port

pytestmark = pytest.mark.usefixtures("as_a_client")
ANSWER = "The answer is Paris."


@contextmanager
def serve_text(body, content_type):
    """Something else than hguard: 200 and the same body to all; with what it was asked."""
    seen = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append((self.path, dict(self.headers)))
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST

        def log_message(self, *_):
            """Not on our standard error."""

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()


@pytest.mark.parametrize(
    "command",
    [
        ("ask", "Where?", "--json"),
        ("ask", "Where?"),
        ("probes", "list"),
        ("probes", "reload"),
        ("probes", "activate", "x"),
        ("probes", "activate", "x", "--json"),
    ],
)
@pytest.mark.parametrize(
    ("body", "content_type"), [("<html>Welcome</html>", "text/html"), ("null", "application/json")]
)
def test_hazard_a_strange_page_ends_in_a_traceback(capsys, command, body, content_type):
    with serve_text(body, content_type) as (address, _):
        status = main([*command, "--url", address])
    shown = capsys.readouterr()
    assert (status, shown.out) == (1, "")
    assert "not as hguard does" in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    "event", ["token\ndata: {", "token\ndata: {}", "error\ndata: {}", "guard\ndata: 1\n\nevent: done\ndata: 2"]
)
def test_hazard_a_strange_stream_ends_in_a_traceback(capsys, event):
    with serve_text(f"event: {event}\n\n", "text/event-stream") as (address, _):
        assert "not as hguard does" in ask(capsys, "Where?", "--url", address)[2]


def test_hazard_a_proxy_reads_what_goes_to_this_machine(capsys, url, monkeypatch):
    with serve_text("", "text/html") as (proxy, seen):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert ask(capsys, "Where?", "--url", url)[0] == 0
        assert not seen
        ask(capsys, "Where?", "--url", "http://hguard.invalid:8000")  # another machine's is
        assert len(seen) == 1


def test_a_password_in_an_address_is_not_repeated(capsys):
    for wrong in ("http://me:secret@127.0.0.1:9", "me:secret@127.0.0.1", "http://me:sec/secret@h"):
        assert "secret" not in fails(capsys, "Where?", "--url", wrong)


def test_hazard_the_answer_is_changed_on_its_way_to_a_file(capsys):
    reply = "It is\tParis.\n\tif x:\n\t\treturn"
    with serve_on_port(make_parts(reply=lambda _: reply)) as address:
        assert ask(capsys, "Where?", "--url", address)[1] == reply + "\n"


def test_no_model_steers_the_terminal_through_json(capsys):
    reply = "It is \x9b31m \u202eblue\x7f."
    with serve_on_port(make_parts(reply=lambda _: reply)) as address:
        _, out, _ = ask(capsys, "Where?", "--url", address, "--json")
    assert json.loads(out)["choices"][0]["text"] == reply
    assert not set("\x9b\u202e\x7f") & set(out)


def test_another_server_is_not_taken_for_a_guard(capsys):
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            """Not on our standard error."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert "not as hguard does" in fails(capsys, "Where?", "--url", f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
    for wrong in ("127.0.0.1:8000", "gopher://x", "http://[::1"):
        assert "is no address" in fails(capsys, "Where?", "--url", wrong)


def test_an_interrupt_ends_the_generation(tmp_path):
    with running_service(tmp_path, fake_step_s=0.5) as service:
        command = [*COMMAND, "ask", "Where?", "--url", service.address]
        asking = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment_of(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell in the background ignores it
        )
        assert asking.stdout.read(1) == "T"  # it has begun
        asking.send_signal(signal.SIGINT)
        _, err = asking.communicate(timeout=30)
        assert asking.returncode == 130
        assert err.strip() == "hguard ask: interrupted"
        deadline = time.monotonic() + 30
        while service.metric("client_disconnects_total") < 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert service.metric("requests_running") == 0
        assert service.metric("generation_tokens_total") < 10  # of 20
