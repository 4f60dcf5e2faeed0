"""Nothing that the service reads can run code: no unpickling, no evaluation, no code of a model's own repository."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__"}
NEEDED = {"torch.load": "weights_only"}
"""Calls that are safe only with this keyword set to True."""
FORBIDDEN = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "read_pickle", "torch.hub.load"}
SWITCHES = {"allow_pickle", "trust_remote_code"}
"""Keywords that must not be True, wherever they are given."""


def findings(tree):
    """(line, what) of everything that could run code from data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            names = []
        yield from ((node.lineno, name) for name in names if name.split(".")[0] in MODULES or name in FORBIDDEN)
        if isinstance(node, ast.Constant) and node.value in MODULES:  # import_module("pickle")
            yield node.lineno, node.value
        if isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in _in_call(node))


def _in_call(node):
    name = ast.unparse(node.func)
    is_set = {keyword.arg for keyword in node.keywords if not _is_constant(keyword.value, False)}
    is_true = {keyword.arg for keyword in node.keywords if _is_constant(keyword.value, True)}
    if name in CALLS or any(name.endswith(bad) for bad in FORBIDDEN):
        yield name
    if name in NEEDED and NEEDED[name] not in is_true:
        yield name
    yield from is_set & SWITCHES


def _is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def sources():
    return sorted(path for package in ("service", "probes") for path in (ROOT / package).rglob("*.py"))


def test_hazard_data_runs_code():
    assert len(sources()) > 80
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in sources()
        for line, what in findings(ast.parse(path.read_text()))
    ]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, joblib as j",
        "from pickle import loads",
        "from dill.session import load",
        "from yaml import load",
        "import_module('cloudpickle')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=chosen)",
        "yaml.load(text, Loader)",
        "pandas.read_pickle(path)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(folder, trust_remote_code=trusts)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_the_scan_finds(source):
    assert list(findings(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "model.eval()",
        "yaml.safe_load(text)",
        "np.load(path, allow_pickle=False)",
    ],
)
def test_the_scan_lets_pass(source):
    assert not list(findings(ast.parse(source)))
