"""Tables and numbers as Markdown."""

from collections.abc import Iterable, Sequence


def render_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first row is its header."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def render_triple(value: Sequence[float]) -> str:
    """A value with its interval."""
    return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
