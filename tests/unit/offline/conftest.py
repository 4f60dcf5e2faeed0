"""An endpoint that answers, a file of questions, and a finished artifact of a tiny model."""

import json
import threading
from dataclasses import asdict

import numpy as np
import pytest

from offline import build as build_module
from offline import metrics
from offline.build import build_artifact
from offline.features.residuals import extract_residuals
from offline.fitting.probe import fit_probe
from tests.unit.offline.chat_server import ChatEndpoint, Handler, LoopbackServer
from tests.unit.offline.tables import extract_table
from tests.unit.offline.tiny_run import make_questions, make_run


@pytest.fixture
def chat_endpoint(monkeypatch):
    """A running endpoint."""
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    server = LoopbackServer(("127.0.0.1", 0), Handler)
    server.endpoint = ChatEndpoint(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server.endpoint
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def questions_file(tmp_path):
    path = tmp_path / "facts.jsonl"
    rows = [{"id": q.question_id, "question": q.question, "answers": ["M", "Paris"]} for q in make_questions(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """(run, table, fitted probe, artifact's folder) of a whole build; tests leave it as it is."""
    out = tmp_path_factory.mktemp("run")
    run, table = make_run(out), extract_table(out / "features")
    fitted = fit_probe(run, table, extract_residuals(run, table, "upstream"), "upstream")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.bootstrap, "__kwdefaults__", {"seed": 0, "resamples": 30})
        patch.setattr(metrics, "RESAMPLES", 30)
        folder = build_artifact(run, table, fitted, "upstream", name="tiny", version="1.0.0")
    return run, table, fitted, folder


@pytest.fixture
def without_baselines(monkeypatch):
    """For tests that build again and look at other things."""
    monkeypatch.setattr(build_module, "fit_dense", lambda _features, _labels, _train, place: np.zeros(len(place)))
    monkeypatch.setattr(build_module, "random_neuron_scores", lambda *args: [np.zeros(len(args[1]))])
    monkeypatch.setattr(metrics, "RESAMPLES", 3)
    monkeypatch.setattr(metrics.bootstrap, "__kwdefaults__", {"seed": 0, "resamples": 3})


@pytest.fixture(scope="session")
def made(built):
    """(artifact's folder, run's folder) of the built run, with the stages that a whole run keeps."""
    run, table, _, folder = built
    out = run.out
    (out / "labels.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in table.rows))
    spans = [{"question_id": passage.key} for passage in table.passages]
    (out / "spans.jsonl").write_text("".join(json.dumps(span) + "\n" for span in spans))
    (out / "spans.settings.json").write_text(json.dumps({"spans": "lexical"}))
    return folder, out
