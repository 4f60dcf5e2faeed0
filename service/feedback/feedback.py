"""Feedback: remembers what was served, takes labels of it, and feeds the drift windows.

No request ever waits for the database to be remembered: responses gather in memory and one thread writes them about
once a second. A database that is down costs labels (503, counted) and, in the end, the oldest unwritten responses
(counted); generation does not notice. Does not know SQL.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from probes.artifact import ProbeArtifact
from service.choices.choice import Outcome
from service.choices.plan import GenerationPlan, GuardPlan
from service.feedback.drift import Drift, DriftCollector
from service.feedback.served_response import ServedResponse, describe_choices, describe_response
from service.feedback.store import TIMEOUT_SECONDS, FeedbackStore, FeedbackUrlError, Label, Stored, database_url
from service.feedback.writer import FAILURES, FeedbackWriter
from service.guard.judgement import Judgement
from service.guard.policy import Action
from service.guard.response import ModelResponse
from service.loading import StartupError
from service.observe.metrics import Metrics
from service.probe_roles.served import ServedModel
from service.settings import Settings
from service.web.errors import ApiError

FLUSH_SECONDS = 1.0
HOUSEKEEPING_SECONDS = 60.0
"""Between two prunings, and two looks for labels that other processes took."""
LABELS_LIMIT = 100
"""Labels that wait for the database at most."""
LABEL_SECONDS = TIMEOUT_SECONDS + 2.0
"""Patience of POST /feedback."""
_DAY_SECONDS = 86_400

logger = logging.getLogger("hguard")


class Feedback:
    """Everything between a served response and its label."""

    def __init__(self, settings: Settings, metrics: Metrics, active: Callable[[], ProbeArtifact | None]) -> None:
        """Check the address; nothing is opened yet.

        Args:
            settings: The operator's choices.
            metrics: Where to count.
            active: The artifact that is served now.

        Raises:
            StartupError: HGUARD_FEEDBACK_URL cannot be used.
        """
        self.settings, self.metrics = settings, metrics
        self.drift = Drift(active, settings.drift_window)
        metrics.registry.register(DriftCollector(self.drift))
        secret = settings.feedback_url
        try:
            url = database_url(None if secret is None else secret.get_secret_value())
        except FeedbackUrlError as error:
            raise StartupError(str(error)) from None
        self._place = "nowhere" if url is None else url.render_as_string(hide_password=True)
        self._writer = None if url is None else FeedbackWriter(FeedbackStore(url), metrics)
        self._task: asyncio.Task[None] | None = None
        self._n_waiting = 0
        self._is_stale = True
        """There are labels that the drift windows do not know yet."""
        self._kept_house = -HOUSEKEEPING_SECONDS

    def start(self) -> None:
        """Begin to write."""
        logger.info("feedback is kept in %s", self._place)
        if self._writer is not None:
            self._task = asyncio.create_task(self._write_again_and_again(self._writer))

    async def close(self) -> None:
        """Write what is left, if the database answers, and stop."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._writer is not None:
            await self._writer.close(LABEL_SECONDS)

    def remember_choices(
        self, response_id: str, served: ServedModel, plans: Sequence[GenerationPlan], outcomes: Sequence[Outcome]
    ) -> None:
        """Take in a generated answer, before it is served."""
        keeps_text = self.settings.feedback_text
        self._take(describe_choices(response_id, served, plans, outcomes, keeps_text=keeps_text))

    def remember_scored(
        self,
        response_id: str,
        served: ServedModel,
        guard: GuardPlan,
        response: ModelResponse,
        judgement: Judgement,
        action: Action,
        choice: int,
    ) -> None:
        """Take in a given response that was scored, before the score is served."""
        keeps_text = self.settings.feedback_text
        row = describe_response(
            response_id,
            served,
            guard,
            response,
            judgement,
            action=action,
            alpha=guard.alpha,
            choice=choice,
            keeps_text=keeps_text,
        )
        self._take([row])

    async def label(self, label: Label) -> Stored:
        """Keep a label.

        Raises:
            ApiError: 404 where nothing was served under that id, or feedback is off; 422 for a span outside the text;
                503 where the database does not answer.
        """
        writer = self._writer
        if writer is None:
            raise ApiError(404, "feedback_off", "no response is remembered here: the operator set feedback off")
        if self._n_waiting >= LABELS_LIMIT:
            raise self._unavailable()
        self._n_waiting += 1
        work = asyncio.ensure_future(self._label(writer, label))
        work.add_done_callback(self._label_ended)
        try:
            # Shielded: rows that wait to be written go with a label, and must not get lost with it.
            stored = await asyncio.wait_for(asyncio.shield(work), LABEL_SECONDS)
        except FAILURES as error:
            writer.say_failed(error)
            raise self._unavailable() from None
        if not stored.is_found and writer.holds(label.id):
            raise self._unavailable()  # served, but the database does not know it yet
        if not stored.is_found:
            raise ApiError(404, "response_not_found", "no response was served here under this id, or it was forgotten")
        if stored.is_outside:
            message = f"the response's text has {stored.text_length} code points"
            raise ApiError(422, "validation_error", message, param="span.end")
        return stored

    def _take(self, rows: Sequence[ServedResponse]) -> None:
        for row in rows:
            if row.risk is not None and row.is_calibrated:
                self.drift.observe(row.probe_sha256, row.risk)
        if self._writer is not None:
            self._writer.add(rows)

    async def _label(self, writer: FeedbackWriter, label: Label) -> Stored:
        await writer.flush()
        stored = await writer.run(writer.store.set_label, label)
        if stored.is_first:
            self.metrics.feedback.labels(label.label).inc()
        self._is_stale = True
        return stored

    def _label_ended(self, work: "asyncio.Future[Stored]") -> None:
        self._n_waiting -= 1
        if not work.cancelled():
            work.exception()  # whoever waited may have left, and an error that nobody fetches would be logged

    async def _write_again_and_again(self, writer: FeedbackWriter) -> None:
        while True:
            try:
                await writer.flush()
                await self._keep_house(writer)
                writer.say_works()
            except FAILURES as error:
                writer.say_failed(error)
            except Exception as error:  # a defect must not end the writing
                logger.error("feedback", exc_info=error)
            await asyncio.sleep(FLUSH_SECONDS)

    async def _keep_house(self, writer: FeedbackWriter) -> None:
        artifact, store, now = self.drift.active(), writer.store, time.monotonic()
        if now - self._kept_house >= HOUSEKEEPING_SECONDS:
            self._kept_house, self._is_stale = now, True
            keep, seconds = self.settings.feedback_keep, self.settings.feedback_days * _DAY_SECONDS
            await writer.run(lambda: store.prune(keep=keep, max_age_seconds=seconds))
        if artifact is not None and (self._is_stale or not self.drift.knows(artifact.sha256)):
            sha256, self._is_stale = artifact.sha256, False
            found = await writer.run(lambda: store.labelled_risks(sha256, self.settings.drift_window))
            self.drift.learn(sha256, found)

    def _unavailable(self) -> ApiError:
        self.metrics.feedback_failures.labels("label").inc()
        return ApiError(503, "feedback_unavailable", "the feedback database does not answer; label it again later")
