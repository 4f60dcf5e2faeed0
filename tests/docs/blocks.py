"""The fenced blocks of a page, each with the HTML comment before it that says how it is run.

    <!-- run -->                        must end with exit code 0
    <!-- run; exit: 3 -->               with this one
    <!-- run; prints: REGEX -->         its output has this (REGEX must not hold a semicolon)
    <!-- run; serve -->                 a server: stays until the next one or the page's end
    <!-- run; with: NAME=VALUE ... -->  with these variables; for what a machine without GPU or hub cannot have
    <!-- not run: REASON -->            REASON is one of `NOT_RUN`, or `tested by PATH`

A block of commands without such a comment is an error, so nothing escapes silently.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMANDS = {"", "bash", "sh", "shell", "console", "python"}
"""Languages of blocks that somebody types; a block without a language may be one."""
DATA = {"json", "toml", "yaml", "text", "nginx", "ini", "promql", "dockerfile", "diff"}
"""Languages of blocks that are shown or copied into a file."""
NOT_RUN = {
    "needs a GPU",
    "needs a cluster",
    "needs docker",
    "needs a model hub",
    "needs a file of yours",
    "installs packages",
    "takes too long",
    "is what runs this",
}
_FENCE = re.compile(r"^( *)```(\w*)\s*$")
_MARK = re.compile(r"^<!-- *(run|not run)\b[:;]? *(.*?) *-->$")


class MarkError(Exception):
    """A block that nobody runs and nobody excuses; says where."""


@dataclass(frozen=True)
class Block:
    """Commands or a snippet, and how they are run."""

    page: str
    line: int
    language: str
    text: str
    is_run: bool = True
    is_server: bool = False
    exit_code: int = 0
    prints: str | None = None
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page that somebody may type from; generated and recorded ones have no commands, which is checked, too."""
    found = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"]
    for folder in ("docs", "deploy", "benchmarks"):
        found += sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.md"))
    return found


def read_blocks(page: str, root: Path = ROOT) -> list[Block]:
    """The blocks of commands of a page, in order.

    Raises:
        MarkError: One has no comment, or one that cannot be understood.
    """
    blocks: list[Block] = []
    mark: str | None = None
    opened: tuple[int, str, str, list[str]] | None = None
    for number, line in enumerate((root / page).read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None:
            if fence and not fence[2]:
                start, indent, language, lines = opened
                if language not in DATA:
                    text = "\n".join(one.removeprefix(indent) for one in lines) + "\n"
                    blocks.append(_marked(page, start, language, text, mark, root))
                opened = mark = None
            else:
                opened[3].append(line)
        elif fence:
            opened = number, fence[1], fence[2], []
        elif line.strip().startswith(("<!-- run", "<!-- not run")):
            mark = line.strip()
        elif line.strip():
            mark = None
    if opened is not None:
        raise MarkError(f"{page}:{opened[0]}: the block has no end")
    return blocks


def _marked(page: str, line: int, language: str, text: str, mark: str | None, root: Path) -> Block:
    where = f"{page}:{line}"
    if language not in COMMANDS:
        raise MarkError(f"{where}: language {language!r} is neither a command's nor data: see tests/docs/blocks.py")
    match = _MARK.match(mark or "")
    if match is None:
        raise MarkError(f"{where}: say <!-- run --> or <!-- not run: REASON --> before the block, got {mark}")
    if match[1] == "not run":
        _check_reason(where, match[2], root)
        return Block(page, line, language, text, is_run=False)
    options: dict[str, str] = {}
    for option in filter(None, (part.strip() for part in match[2].split(";"))):
        name, _, value = option.partition(":")
        options[name.strip()] = value.strip()
    if unknown := options.keys() - {"serve", "exit", "prints", "with"}:
        raise MarkError(f"{where}: unknown option {unknown}")
    return Block(
        page,
        line,
        language,
        text,
        is_server="serve" in options,
        exit_code=int(options.get("exit", 0)),
        prints=options.get("prints"),
        variables=dict(part.split("=", 1) for part in options.get("with", "").split()),
    )


def _check_reason(where: str, reason: str, root: Path) -> None:
    if reason.startswith("tested by "):
        if not (root / reason.removeprefix("tested by ")).exists():
            raise MarkError(f"{where}: {reason}: there is no such test")
    elif reason not in NOT_RUN:
        raise MarkError(f"{where}: {reason!r} is no reason: {', '.join(sorted(NOT_RUN))}, or tested by PATH")
