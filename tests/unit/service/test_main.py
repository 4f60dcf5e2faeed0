"""`python -m service`: what cannot work is said in one line, with exit code 2."""

import asyncio
import logging
import socket

import pytest
from safetensors import SafetensorError

from service.__main__ import bind, main, warn_of_risks
from service.settings import Settings


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("service.__main__.configure_logs", lambda *_: None)  # it is for a process of one's own
    monkeypatch.setattr(logging.getLogger("uvicorn"), "handlers", [])  # of an earlier test's server, its stream closed


def fails_with(capsys, *words):
    assert main([]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    last = error.strip().splitlines()[-1]  # after what the server logged of its start
    assert last.startswith("hguard: ")
    for word in words:
        assert word in last


def test_a_taken_port(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("HGUARD_PORT", str(taken.getsockname()[1]))
        fails_with(capsys, "cannot listen", "HGUARD_PORT")


async def test_hazard_small_answers_wait_40_ms_for_an_acknowledgement():
    """Nagle's algorithm; uvloop turns it off on every connection, plain asyncio only where the socket says TCP."""
    found = asyncio.get_running_loop().create_future()

    def look(_reader, writer):
        found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with bind(Settings(port=0)) as listener:
        async with await asyncio.start_server(look, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            assert await asyncio.wait_for(found, 10)
            writer.close()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HGUARD_PORT": "99999"}, ["HGUARD_PORT='99999'"]),
        ({"HGUARD_ENGIN": "fake"}, ["did you mean HGUARD_ENGINE"]),
        ({"HGUARD_ENGINE": "vllm"}, ["HGUARD_ENGINE=vllm", "HGUARD_ENGINE=transformers"]),
        ({"HGUARD_MODEL": "model.gguf"}, ["HGUARD_MODEL=model.gguf", "does not exist"]),
        ({"HGUARD_ENGINE": "fake", "HGUARD_PROBE": "nobody"}, ["HGUARD_PROBE=nobody", "no probe 'nobody'"]),
    ],
)
def test_settings_that_cannot_work(monkeypatch, capsys, environment, words):
    for name, value in {"HGUARD_PORT": "0", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("service.engines.registry._has_vllm", lambda: False)
    fails_with(capsys, *words)


def test_hazard_half_a_file_of_weights_leaves_a_service_that_never_gets_ready(monkeypatch, capsys):
    def load(*_):
        raise SafetensorError("incomplete metadata, file not fully covered")

    monkeypatch.setenv("HGUARD_PORT", "0")
    monkeypatch.setattr("service.loading.build_engine", load)
    fails_with(capsys, "HGUARD_MODEL=", "SafetensorError", "incomplete metadata")


def test_help_and_version(capsys):
    for argument, words in (("--help", ["HGUARD_MODEL", "HGUARD_ON_ERROR"]), ("--version", ["hguard "])):
        with pytest.raises(SystemExit) as stop:
            main([argument])
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words)


def test_root_and_an_open_address_are_warned_of(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr("service.__main__.os.geteuid", lambda: 0)
    warn_of_risks(Settings(host="0.0.0.0", insecure=True))
    assert "runs as root" in caplog.text
    assert "there are no API keys" in caplog.text
    caplog.clear()
    monkeypatch.setattr("service.__main__.os.geteuid", lambda: 1000)
    warn_of_risks(Settings(host="0.0.0.0", api_keys_file=tmp_path / "keys.toml"))
    warn_of_risks(Settings())
    assert not caplog.records


def test_a_file_of_keys_that_cannot_be_read(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HGUARD_PORT", "0")
    monkeypatch.setenv("HGUARD_API_KEYS_FILE", str(tmp_path / "keys.toml"))
    fails_with(capsys, "HGUARD_API_KEYS_FILE=", "No such file")
