"""The command line: its defaults, the probe's name, and errors that a user can mend."""

from dataclasses import fields, replace

import pytest

from offline import train_probe
from offline.run import RunConfig
from probes.models import ModelReferenceError


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instruct"),  # 0.5B-Instruct is no suffix
        ("owner/name@main", "name"),
        ("/models/Llama-3.1-8B/", "Llama-3.1-8B"),
        ("files/model.Q4_K_M.gguf", "model.Q4_K_M"),
    ],
)
def test_a_probe_is_named_after_its_model(reference, name):
    assert train_probe.name_probe(reference) == name


def test_every_option_is_a_field_of_the_configuration(tmp_path):
    args = vars(train_probe.parse_arguments(["--questions", "builtin:world", "--out", str(tmp_path)]))
    assert args.keys() - {field.name for field in fields(RunConfig)} == {"name", "version", "publish"}
    config = train_probe.read_config(args)
    defaults = RunConfig(model=config.model, questions=("x",), out=tmp_path)
    assert replace(config, questions=("x",)) == defaults  # the command line's defaults are the documented ones


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--questions", "none.jsonl"], "none.jsonl"),
        (["--questions", "builtin:world", "--limit", "0"], "limit is 0"),
        (["--questions", "builtin:nothing"], "builtin"),
    ],
)
def test_errors_a_user_can_mend_are_one_line_and_code_2(tmp_path, caplog, arguments, message):
    assert train_probe.main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert message in caplog.records[-1].getMessage()
    assert "\n" not in caplog.records[-1].getMessage()


def test_a_model_that_cannot_be_had_is_code_2(tmp_path, caplog, monkeypatch, questions_file):
    def refuse(_):
        raise ModelReferenceError("no such model")

    monkeypatch.setattr("offline.run.resolve_model", refuse)
    assert train_probe.main(["--questions", str(questions_file), "--out", str(tmp_path / "run")]) == 2
    assert caplog.records[-1].getMessage() == "error: no such model"


def test_no_module_here_takes_the_name_of_one_in_the_standard_library():
    """`python offline/train_probe.py` puts this folder first on the path: a select.py here broke subprocess."""
    import sys
    from pathlib import Path

    names = {path.stem for path in Path(train_probe.__file__).parent.glob("*.py")} - {"__init__"}
    assert not names & set(sys.stdlib_module_names)
    assert not names & {"torch", "numpy", "sklearn", "transformers", "datasets", "tokenizers", "joblib", "celer"}
