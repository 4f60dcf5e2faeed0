"""The pages that are made from the code say what the code does now."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "generate.py"


def load_script():
    spec = importlib.util.spec_from_file_location("generate_docs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT_PAGES = load_script().PAGES


@pytest.mark.parametrize("name", SCRIPT_PAGES)
def test_what_is_committed_is_what_is_made(name):
    committed, made = (SCRIPT.parent / name).read_text(encoding="utf-8"), SCRIPT_PAGES[name]()
    assert committed == made, "run `python docs/generate.py` and commit what it writes"


def test_every_metric_and_route_has_a_row():
    assert "| `hguard_risk_psi` | gauge |" in SCRIPT_PAGES["metrics.md"]()
    assert "| `hguard_requests_total` | counter | `route`, `code`, `action` |" in SCRIPT_PAGES["metrics.md"]()
    assert "## POST /probes/{name}/activate" in SCRIPT_PAGES["reference.md"]()
    assert "| `risk` | number or null | required |" in SCRIPT_PAGES["reference.md"]()
