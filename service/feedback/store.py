"""Feedback store: served responses and their labels in SQLite or PostgreSQL. Every method blocks.

A row goes when it is older than the operator's days, or when so many newer ones of its kind are there; labelled rows
are counted apart, so that traffic never pushes labels out.
"""

import importlib.util
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from service.feedback.drift import LabelledRisk
from service.feedback.served_response import ServedResponse

OFF = "off"
TIMEOUT_SECONDS = 3
"""Patience with a database: to connect, for a statement, for a lock, and for a packet."""

_metadata = sql.MetaData()
RESPONSES = sql.Table(
    "hguard_responses",
    _metadata,
    sql.Column("id", sql.String(128), primary_key=True),
    sql.Column("choice", sql.Integer, primary_key=True),
    sql.Column("created", sql.Double, nullable=False, index=True),
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("model_sha256", sql.String(64), nullable=False),
    sql.Column("probe", sql.Text, nullable=False),
    sql.Column("probe_sha256", sql.String(64), nullable=False),
    sql.Column("status", sql.String(16), nullable=False),
    sql.Column("risk", sql.Double),
    sql.Column("logit", sql.Double),
    sql.Column("threshold", sql.Double, nullable=False),
    sql.Column("policy", sql.String(16), nullable=False),
    sql.Column("action", sql.String(16), nullable=False),
    sql.Column("alpha", sql.Double, nullable=False),
    sql.Column("is_calibrated", sql.Boolean, nullable=False),
    sql.Column("parts", sql.JSON, nullable=False),
    sql.Column("spans", sql.JSON, nullable=False),
    sql.Column("text_length", sql.Integer, nullable=False),
    sql.Column("question", sql.Text),
    sql.Column("response", sql.Text),
    sql.Column("label", sql.String(16)),
    sql.Column("labelled", sql.Double),
    sql.Column("span_start", sql.Integer),
    sql.Column("span_end", sql.Integer),
    sql.Index("hguard_responses_labelled", "probe_sha256", "labelled"),
)
_R = RESPONSES.c


class FeedbackUrlError(ValueError):
    """The address names no database that can be used. The message never holds it: it may carry a password."""


class Label(NamedTuple):
    """A label as it was sent."""

    id: str
    choice: int
    label: str
    span: tuple[int, int] | None
    """Code points [start, end) of the response's text."""


class Stored(NamedTuple):
    """What became of a label."""

    is_found: bool
    is_first: bool = False
    """It replaced no other."""
    text_length: int = 0
    is_outside: bool = False
    """The span ends after the text does; nothing was kept."""


def database_url(setting: str | None) -> URL | None:
    """The address of the database; None where feedback is off.

    Args:
        setting: HGUARD_FEEDBACK_URL; None: a SQLite file in the user's state folder.

    Raises:
        FeedbackUrlError: It is none that can be used here.
    """
    if setting == OFF:
        return None
    if setting is None:
        return URL.create("sqlite", database=str(_state_folder() / "feedback.db"))
    try:
        url = make_url(setting)
    except ArgumentError:
        raise FeedbackUrlError(_NO_URL) from None
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return url
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        if importlib.util.find_spec("psycopg") is None:
            raise FeedbackUrlError("PostgreSQL needs the extra `postgres`: pip install 'hguard[postgres]'")
        return url.set(drivername="postgresql+psycopg")
    raise FeedbackUrlError(_NO_URL)


_NO_URL = "HGUARD_FEEDBACK_URL is sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or off"


class FeedbackStore:
    """The rows."""

    def __init__(self, url: URL) -> None:
        """Nothing is opened before the first call that needs it.

        Args:
            url: From `database_url`.
        """
        self._url, self._is_ready = url, False
        if url.drivername == "sqlite":
            options: dict[str, Any] = {"connect_args": {"timeout": TIMEOUT_SECONDS}}
        else:
            patience = {
                "connect_timeout": TIMEOUT_SECONDS,
                "tcp_user_timeout": 1000 * TIMEOUT_SECONDS,
                "keepalives_idle": TIMEOUT_SECONDS,
                "keepalives_interval": 1,
                "keepalives_count": 2,
                "options": f"-c statement_timeout={1000 * TIMEOUT_SECONDS} -c lock_timeout={1000 * TIMEOUT_SECONDS}",
                "application_name": "hguard",
            }
            options = {"connect_args": patience, "pool_pre_ping": True}
        # Parameters hold texts; they must not come into an error, which is logged.
        self._engine = sql.create_engine(url, hide_parameters=True, **options)
        if url.drivername == "sqlite":
            sql.event.listen(self._engine, "connect", _set_pragmas)

    def write(self, rows: Sequence[ServedResponse]) -> None:
        """Keep served responses; one takes the place of an older one of its name that nobody has labelled."""
        if not rows:
            return
        self._open()
        insert = sqlite.insert if self._url.drivername == "sqlite" else postgresql.insert
        added = insert(RESPONSES)
        key = {column.name for column in RESPONSES.primary_key}
        values = {field.name: added.excluded[field.name] for field in fields(ServedResponse) if field.name not in key}
        is_replaced = sql.and_(_R.label.is_(None), _R.created <= added.excluded.created)
        statement = added.on_conflict_do_update(index_elements=sorted(key), set_=values, where=is_replaced)
        with self._engine.begin() as connection:
            connection.execute(statement, [asdict(row) for row in rows])

    def set_label(self, label: Label) -> Stored:
        """Keep a label of a response that is there, instead of any earlier one."""
        self._open()
        is_it = sql.and_(_R.id == label.id, _R.choice == label.choice)
        start, end = label.span or (None, None)
        with self._engine.begin() as connection:
            length = connection.execute(sql.select(_R.text_length).where(is_it)).scalar()
            if length is None:
                return Stored(is_found=False)
            if end is not None and end > length:
                return Stored(is_found=True, text_length=length, is_outside=True)
            values = {"label": label.label, "labelled": time.time(), "span_start": start, "span_end": end}
            # Whoever labels it first is decided by the database: other processes may write to it.
            first = connection.execute(sql.update(RESPONSES).where(is_it, _R.label.is_(None)).values(values)).rowcount
            if not first:
                connection.execute(sql.update(RESPONSES).where(is_it).values(values))
        return Stored(is_found=True, is_first=bool(first), text_length=length)

    def labelled_risks(self, probe_sha256: str, limit: int) -> list[LabelledRisk]:
        """The latest labelled responses of a probe that are comparable with its calibration."""
        self._open()
        query = (
            sql.select(_R.risk, _R.label)
            .where(_R.probe_sha256 == probe_sha256, _R.labelled.is_not(None), _R.is_calibrated, _R.risk.is_not(None))
            .order_by(_R.labelled.desc())
            .limit(limit)
        )
        with self._engine.connect() as connection:
            return [LabelledRisk(risk, label == "hallucinated") for risk, label in connection.execute(query)]

    def export(self) -> Iterator[dict[str, Any]]:
        """Every labelled row, the first labelled one first."""
        self._open()
        query = sql.select(RESPONSES).where(_R.label.is_not(None)).order_by(_R.labelled, _R.id, _R.choice)
        with self._engine.connect().execution_options(yield_per=1000) as connection:
            for row in connection.execute(query).mappings():
                yield dict(row)

    def prune(self, *, keep: int, max_age_seconds: float) -> int:
        """Forget rows that are too old or too many; returns how many."""
        self._open()
        with self._engine.begin() as connection:
            gone = connection.execute(sql.delete(RESPONSES).where(_R.created < time.time() - max_age_seconds)).rowcount
            for kind in (_R.label.is_(None), _R.label.is_not(None)):
                newest = sql.select(_R.created).where(kind).order_by(_R.created.desc()).offset(keep).limit(1)
                last = connection.execute(newest).scalar()
                if last is not None:
                    gone += connection.execute(sql.delete(RESPONSES).where(kind, _R.created <= last)).rowcount
        return gone

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _open(self) -> None:
        if self._is_ready:
            return
        if self._url.drivername == "sqlite":
            _make_private(Path(str(self._url.database)))
        try:
            _metadata.create_all(self._engine)
        except SQLAlchemyError:
            # Another process may have made the table between our look and our try.
            if not sql.inspect(self._engine).has_table(RESPONSES.name):
                raise
        self._is_ready = True


def one_line(error: BaseException) -> str:
    """An error for the log: the database's own words, without statement, parameters and address."""
    found = getattr(error, "orig", None) or error
    return f"{type(found).__name__}: {' '.join(str(found).split())}"


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "hguard"


def _make_private(file: Path) -> None:
    """Create the file for its owner alone."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))


def _set_pragmas(connection: Any, _record: object) -> None:
    """WAL: a reader, such as the export, stops no writer. secure_delete: what is forgotten is overwritten."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")
