"""The worker's loop: admit, prefill a chunk, score a chunk, step every lane, hand the evidence out; once a turn.

Owns the model: everything that touches it happens on this thread, between two steps. A failure ends the requests that
it touched and no others.
"""

import logging
import queue
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from service.engines.base import EngineError
from service.engines.heads import TappedModel
from service.engines.lane import Admission, Lane
from service.engines.sequence import Delivery, RunningSequence, fail
from service.engines.teacher import MAX_SCORED_TOKENS, ScoreJob, TeacherForcing, fail_jobs

logger = logging.getLogger(__name__)
T = TypeVar("T")


class BatchLoop:
    """Sequences and score jobs of one model, served on the thread that calls `run`.

    `submit`, `score`, `call` and `close` are for any thread; the first three raise EngineError once the loop has ended.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        stop_ids: Collection[int],
        max_rows: int,
        prefill_tokens: int,
        post: Callable[[list[Delivery]], None],
    ) -> None:
        """Prepare; `run` serves.

        Args:
            model: A supported model.
            stop_ids: End-of-sequence token ids.
            max_rows: Sequences that run together, prefill included.
            prefill_tokens: Prompt tokens a turn: what a running row waits for at most.
            post: Called with what one turn gave.
        """
        self.tapped, self.stop_ids = TappedModel(model), stop_ids
        self.max_rows, self.prefill_tokens = max_rows, prefill_tokens
        self._post = post
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[RunningSequence] = deque()
        self._jobs: deque[ScoreJob] = deque()
        self._lanes: list[Lane] = []
        self._admission: Admission | None = None
        self._teacher: TeacherForcing | None = None
        self._outbox: list[Delivery] = []
        self._has_ended = False

    # any thread

    def submit(self, sequence: RunningSequence) -> None:
        """Queue a sequence."""
        self._send(lambda: self._waiting.append(sequence))

    def score(self, job: ScoreJob) -> None:
        """Queue a score job."""
        self._send(lambda: self._jobs.append(job))

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run something that touches the model between two steps."""
        future: Future[T] = Future()

        def answer() -> None:
            if future.set_running_or_notify_cancel():
                _settle(future, function)

        self._send(answer)
        return future

    def close(self) -> None:
        """End `run`; what still runs fails."""
        self._inbox.put(None)

    @property
    def n_running(self) -> int:
        """Sequences that hold a row."""
        admission = self._admission
        return sum(len(lane.sequences) for lane in self._lanes) + (len(admission.sequences) if admission else 0)

    def _send(self, command: Callable[[], None]) -> None:
        self._inbox.put(command)
        if self._has_ended:  # set before the loop empties its inbox for the last time, so nothing waits for ever
            raise EngineError("the engine is closed")

    # the worker thread

    @torch.inference_mode()
    def run(self) -> None:
        """Serve until `close`."""
        reason: Exception = EngineError("the engine is closed")
        try:
            while self._receive():
                self._turn()
        except Exception as error:  # whatever it was, nobody may wait for a thread that is gone
            logger.critical("the engine's loop ended: no request will be served", exc_info=True)
            reason = error
        self._has_ended = True
        self.tapped.release()
        while not self._inbox.empty():
            command = self._inbox.get()
            if command is not None:
                command()
        lanes = [sequence for lane in self._lanes for sequence in lane.sequences]
        admitted = self._admission.sequences if self._admission else []
        fail([*self._waiting, *admitted, *lanes], reason, self._outbox)
        fail_jobs([*self._jobs, *(self._teacher.jobs if self._teacher else [])], reason)
        self._lanes, self._admission, self._teacher = [], None, None
        self._flush()

    def _receive(self) -> bool:
        """Take in what other threads sent, waiting only where there is nothing to do; False to end."""
        is_idle = not (self._waiting or self._jobs or self._lanes or self._admission or self._teacher)
        if is_idle:
            self.tapped.release()
        while True:
            try:
                command = self._inbox.get(block=is_idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            is_idle = False

    def _turn(self) -> None:
        self._drop_abandoned()
        self._prefill()
        self._flush()
        self._score()
        self._drop_abandoned()  # again, as a chunk of a long prompt takes its time
        for lane in self._lanes:
            with self._contain(lane.sequences):
                lane.step(self._outbox)
        self._flush()

    def _drop_abandoned(self) -> None:
        self._waiting = deque(sequence for sequence in self._waiting if sequence.is_running)
        if self._admission:
            with self._contain(self._admission.sequences):
                self._admission.drop_ended()
            self._admission = self._admission if self._admission.sequences else None
        for lane in self._lanes:
            with self._contain(lane.sequences):
                lane.drop_ended()
        self._lanes = [lane for lane in self._lanes if any(one.is_running for one in lane.sequences)]

    def _prefill(self) -> None:
        sequences = self._admission.sequences if self._admission else self._next_sequences()
        if not sequences:
            return
        admission, is_fed = None, False
        with self._contain(sequences):
            admission = self._admission or Admission(self.tapped, sequences, self.stop_ids)
            is_fed = admission.step(self.prefill_tokens, self._outbox)
        self._admission = None if is_fed or not any(one.is_running for one in sequences) else admission
        if admission is not None and is_fed and admission.sequences:
            lane = self._lane_of(admission)
            with self._contain([*lane.sequences, *admission.sequences]):
                lane.merge(admission)

    def _next_sequences(self) -> list[RunningSequence]:
        """The sequences at the head of the queue that fit together: same heads, rows and tokens within the limits."""
        taken: list[RunningSequence] = []
        room, longest = self.max_rows - self.n_running, 0
        while self._waiting and len(taken) < room:
            candidate = self._waiting[0]
            longest = max(longest, len(candidate.request.prompt_ids))
            fits = (len(taken) + 1) * longest <= self.prefill_tokens
            if taken and not (fits and candidate.heads is taken[0].heads):
                break
            taken.append(self._waiting.popleft())
        return taken

    def _lane_of(self, admission: Admission) -> Lane:
        for lane in self._lanes:
            if lane.heads is admission.heads:
                return lane
        lane = Lane(self.tapped, admission.heads, self.stop_ids)
        self._lanes.append(lane)
        return lane

    def _score(self) -> None:
        jobs = self._teacher.jobs if self._teacher else self._next_jobs()
        if not jobs:
            return
        try:
            self._teacher = self._teacher or TeacherForcing(self.tapped, jobs)
            is_done = self._teacher.step(self.prefill_tokens)
        except Exception as error:  # these jobs fail, the engine goes on
            logger.exception("a score pass failed")
            fail_jobs(jobs, error)
            is_done = True
        if is_done:
            self._teacher = None

    def _next_jobs(self) -> list[ScoreJob]:
        taken: list[ScoreJob] = []
        longest = 0
        while self._jobs and len(taken) < self.max_rows:
            job = self._jobs[0]
            longest = max(longest, len(job.prompt_ids) + len(job.response_ids))
            if taken and not (job.heads is taken[0].heads and (len(taken) + 1) * longest <= MAX_SCORED_TOKENS):
                break
            self._jobs.popleft()
            if job.result.set_running_or_notify_cancel():
                taken.append(job)
        return taken

    @contextmanager
    def _contain(self, sequences: Sequence[RunningSequence]) -> Iterator[None]:
        """A failure inside ends these sequences, and nothing else."""
        try:
            yield
        except Exception as error:  # the engine goes on serving the others
            logger.exception("a pass over %d sequences failed", len(sequences))
            fail(sequences, error, self._outbox)

    def _flush(self) -> None:
        if self._outbox:
            self._post(self._outbox)
            self._outbox = []


def _settle(future: Future[T], function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except Exception as error:  # noqa: BLE001 - handed to whoever asked
        future.set_exception(error)
