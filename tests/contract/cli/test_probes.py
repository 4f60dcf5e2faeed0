"""`hguard probes`: a damaged probe is seen before it is served, and a switch reaches the server that was meant."""

import json
import shutil
import subprocess
import sys

import pytest

from service.cli.main import main
from service.engines.fake_probe import fake_artifact
from tests.contract import spoiling
from tests.contract.cli.terminal import environment_of, run_at_terminal
from tests.probe_library import KEY, SETTINGS, turned, write_library
from tests.serving import make_parts, serve_on_port

COLUMNS = ["name", "version", "state", "model", "AUROC", "threshold", "sha256", "reason"]


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text(KEY)
    return write_library(tmp_path / "mine", *(turned(fake_artifact(), version) for version in ("1", "2")))


@pytest.fixture
def url(library):
    with serve_on_port(make_parts(), probes_dir=library, **SETTINGS) as address:
        yield address


def probes(capsys, *arguments, status=0):
    assert main(["probes", *arguments]) == status
    shown = capsys.readouterr()
    return shown.err if status else shown.out


def table(text):
    first, *rows = [line.split("\t") for line in text.splitlines()]
    assert first == COLUMNS
    return {f"{row[0]}@{row[1]}": dict(zip(COLUMNS, row, strict=True)) for row in rows}


def test_what_lies_on_disk_is_told_without_a_server(capsys):
    found = table(probes(capsys, "--probes-dir", "mine"))
    assert list(found) == [
        *("fake@2", "fake@1", "gemma3-270m@1.0.0"),
        *("qwen2.5-coder-0.5b-instruct@1.0.0", "qwen2.5-coder-1.5b-instruct@1.0.0", "smollm2-135m-instruct@1.3.0"),
    ]
    assert {one["state"] for one in found.values()} == {"available"}
    shipped = found["smollm2-135m-instruct@1.3.0"]
    assert shipped["AUROC"].startswith("0.8")
    assert (shipped["model"], len(shipped["sha256"])) == ("smollm2-135m-instruct", 12)


@pytest.mark.parametrize("spoil", [spoiling.cut, spoiling.swap_weights, spoiling.drop_json])
def test_a_damaged_probe_is_named_and_hides_no_other(capsys, library, spoil):
    spoil(library / "fake" / "2", None)
    found = table(probes(capsys, "--probes-dir", "mine"))
    assert found["fake@2"]["state"] == "refused"
    assert found["fake@2"]["reason"]
    assert found["fake@1"]["state"] == "available"


def test_a_copy_under_another_version_is_refused(capsys, library):
    (library / "fake" / "2").rename(library / "fake" / "3")
    assert "rename the folder" in table(probes(capsys, "--probes-dir", "mine"))["fake@3"]["reason"]


def test_a_folder_that_is_not_there_is_not_an_empty_one(capsys):
    assert "no folder" in probes(capsys, "--probes-dir", "nowhere", status=1)


def test_one_probe_with_its_card(capsys, library):
    (library / "fake" / "1" / "README.md").write_text("# the card\x1b[2J\n")
    shown = probes(capsys, "show", "fake@1", "--probes-dir", "mine")
    assert "4 selected, 2 of them H-neurons" in shown
    assert "folder     mine/fake/1\n" in shown
    assert shown.endswith("# the card\ufffd[2J\n")
    assert "risk of    cett, residual, min_logprob" in probes(capsys, "show", "smollm2-135m-instruct")
    assert "`hguard probes` lists" in probes(capsys, "show", "fake@9", "--probes-dir", "mine", status=1)


def test_a_server_tells_its_roles_and_is_switched(capsys, url):
    def ask(*arguments, status=0):
        return probes(capsys, *arguments, "--url", url, "--key-file", "key", status=status)

    def states():
        return {name: one["state"] for name, one in table(ask()).items() if name.startswith("fake")}

    assert states() == {"fake@0": "active", "fake@2": "available", "fake@1": "available"}
    assert ask("activate", "fake@1", "--mode", "shadow") == "fake@1 is now shadow\n"
    assert ask("activate", "fake@2", "--mode", "canary", "--percent", "5") == "fake@2 is now canary\n"
    assert states() == {"fake@0": "active", "fake@1": "shadow", "fake@2": "canary 5%"}
    assert ask("rollback", "fake", "--mode", "canary") == "fake@2 is no longer canary\n"
    assert ask("activate", "fake") == "fake@2 is now active\n"  # the newest
    assert ask("rollback", "fake") == "fake@0 is now active\n"
    assert json.loads(ask("activate", "fake@2", "--json"))["probe"]["version"] == "2"
    assert "(nothing_before" not in ask("reload")
    assert "version    2" in ask("show", "fake@2")
    assert "`hguard probes` lists them" in ask("activate", "nobody", status=1)


def test_hazard_a_refused_probe_looks_switched(capsys, url, library):
    spoiling.swap_weights(library / "fake" / "1", None)
    arguments = ["activate", "fake@1", "--url", url, "--key-file", "key"]
    assert "probe_refused" in probes(capsys, *arguments, status=1)
    assert table(probes(capsys, "--url", url))["fake@0"]["state"] == "active"


def test_hazard_a_switch_that_a_restart_forgets(capsys, url, library):
    switch = ["--mode", "shadow", "--url", url, "--key-file", "key"]
    assert main(["probes", "activate", "fake@1", *switch]) == 0
    assert capsys.readouterr().err == ""
    shutil.rmtree(library)
    library.write_text("a file where the folder should be")
    assert main(["probes", "rollback", "fake", *switch]) == 0
    assert "a restart forgets this" in capsys.readouterr().err


def test_no_admin_key_no_switch(capsys, url):
    assert "invalid_api_key" in probes(capsys, "activate", "fake@1", "--url", url, status=1)


@pytest.mark.parametrize("arguments", [["show"], ["reload", "fake"], ["list", "fake"], ["activate"]])
def test_a_name_where_one_belongs(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(["probes", *arguments])
    assert stop.value.code == 2
    assert "name" in capsys.readouterr().err.lower().splitlines()[-1]


def test_a_terminal_gets_a_table(tmp_path):
    shown = run_at_terminal("probes", "--probes-dir", "mine", cwd=tmp_path, COLUMNS="200")
    assert "\t" not in shown
    assert "smollm2-135m-instruct" in shown


def test_the_command_line_waits_for_no_torch(tmp_path):
    code = (
        "import sys; from service.cli.main import main; import service.cli.ask; main(['probes']); "
        "sys.exit(len({'torch', 'transformers', 'fastapi', 'sqlalchemy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment_of(), check=False).returncode == 0
