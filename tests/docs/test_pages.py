"""Every command of the documentation is run, in the order in which it stands there."""

import re

import pytest

from tests.docs.blocks import ROOT, MarkError, pages, read_blocks
from tests.docs.reader import Reader


def test_no_command_of_a_page_escapes():
    """Collects all, so that one run names every block that somebody has to mark."""
    wrong = []
    for page in pages():
        try:
            read_blocks(page)
        except MarkError as error:
            wrong.append(str(error))
    assert not wrong, "\n".join(wrong)


def has_commands_to_run(page):
    return re.search(r"^<!-- run\b", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in pages() if has_commands_to_run(page)])
def test_what_a_page_says_works(page, tmp_path):
    reader = Reader(tmp_path)
    try:
        for block in read_blocks(page):
            if block.is_run:
                reader.type(block)
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("```\nls\n```\n", "say <!-- run -->"),
        ("<!-- run -->\nSomething between.\n```sh\nls\n```\n", "say <!-- run -->"),
        ("<!-- not run: too lazy -->\n```bash\nls\n```\n", "is no reason"),
        ("<!-- not run: tested by tests/nothing.py -->\n```bash\nls\n```\n", "no such test"),
        ("<!-- run; somehow -->\n```bash\nls\n```\n", "unknown option"),
        ("```zsh\nls\n```\n", "neither a command's nor data"),
        ("<!-- run -->\n```bash\nls\n", "has no end"),
        ("- in a list\n\n  ```bash\n  ls\n  ```\n", "say <!-- run -->"),
    ],
)
def test_hazard_a_block_that_nobody_runs(tmp_path, text, words):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(MarkError, match=words):
        read_blocks("page.md", tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- run -->\n```bash\nfalse\ntrue\n```\n", "exit code 1"),
        ("<!-- run; exit: 3 -->\n```bash\ntrue\n```\n", "exit code 0"),
        ("<!-- run; prints: Tokyo -->\n```python\nprint('Kyoto')\n```\n", "no 'Tokyo' in"),
        ("<!-- run; serve -->\n```bash\nexit 0\n```\n", "the server ended"),
    ],
)
def test_hazard_a_block_that_fails_passes(tmp_path, text, words):
    (tmp_path / "page.md").write_text(text)
    (tmp_path / "work").mkdir()
    reader = Reader(tmp_path / "work")
    (block,) = read_blocks("page.md", tmp_path)
    with pytest.raises(AssertionError, match=words):
        reader.type(block)
    reader.close()
