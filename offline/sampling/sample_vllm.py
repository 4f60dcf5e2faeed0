"""The sampler on vLLM: the same jobs, answered by its continuous batching. Imported only when it is chosen.

A question's samples share its prompt in vLLM's prefix cache. Each has a seed of its own, so that a resumed run draws
the same answers whatever else is in the batch, up to the rounding of its logits. Judges nothing, reads no neuron.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offline.records import FinishReason, Question, Response
from offline.sampling.line_end import LineEnd
from offline.sampling.sample import Job, respond, sample_key
from probes.checkpoint import Checkpoint
from probes.decoding import stop_token_ids
from probes.sampling import SamplingParams
from probes.vllm_start import start_arguments

_USUAL_LENGTH = 4096
"""Tokens of prompt and answer that there is room for at first. Many models allow far more than a small cache holds."""


@dataclass(frozen=True, slots=True)
class _Asked:
    question_id: str
    sample: int
    prompt: list[int]
    begun: tuple[int, ...] = ()
    """Newlines before any text: a stop token ended the request, but not the answer."""


class VllmSampler:
    """Draws answers with an engine of its own, until `close`."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Any,
        encode: Callable[[Question], list[int]],
        *,
        seed: int,
        max_tokens: int = 50,
        max_rows: int = 128,
        dtype: str = "auto",
        device: str = "auto",
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Start vLLM; takes half a minute or more.

        Args:
            folder: What `probes.models.resolve_model` returned.
            tokenizer: Its tokenizer.
            encode: Question -> prompt token ids.
            seed: Together with question id and sample number it decides every draw.
            max_tokens: Response tokens at most; the paper's 50.
            max_rows: Rows decoded together.
            dtype: See `probes.models.load_model`.
            device: `cpu`, `cuda` or `auto`.
            arguments: More of vLLM's engine arguments, by their names there.
        """
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        self.tokenizer, self.seed, self.max_tokens, self.encode = tokenizer, seed, max_tokens, encode
        checkpoint = Checkpoint(folder)
        self._stop_ids = stop_token_ids(checkpoint.skeleton, tokenizer)
        self._line_end = LineEnd(tokenizer)
        self._most = int(checkpoint.config.get_text_config().max_position_embeddings)
        place, known = start_arguments(folder, dtype, device)
        self._arguments = {**known, "max_num_seqs": max_rows}
        if place == "cpu":
            # vLLM 0.32 stops where a prompt with a seed is fed in pieces: a CPU's random generator has no offset.
            self._arguments |= {"enforce_eager": True, "enable_chunked_prefill": False}
        self._arguments |= arguments or {}
        self._llm: Any = None
        self._length = 0
        self._start(_USUAL_LENGTH)

    def draw(self, jobs: Sequence[Job], params: SamplingParams) -> Iterator[list[Response]]:
        """Answer all jobs; finished responses come in small lists, in the order in which they finish.

        Raises:
            RuntimeError: VLLM gave an answer up.
        """
        waiting: dict[str, _Asked] = {}
        prompts = [self.encode(job.question) for job in jobs]
        self._start(max(map(len, prompts), default=0) + self.max_tokens)
        for job, prompt in zip(jobs, prompts, strict=True):
            for sample in job.samples:
                self._ask(_Asked(job.question.question_id, sample, prompt), params, waiting)
        while waiting:
            done = []
            for output in self._llm.llm_engine.step():
                if output.finished:
                    asked = waiting.pop(output.request_id)
                    answer = self._answer(asked, output.outputs[0])
                    if isinstance(answer, Response):
                        done.append(answer)
                    else:
                        self._ask(answer, params, waiting)
            if done:
                yield done

    def close(self) -> None:
        """Give the device back."""
        engine, self._llm = self._llm, None
        engine.llm_engine.engine_core.shutdown()

    def _start(self, length: int) -> None:
        """Have a vLLM that takes this many tokens of prompt and answer: a longer prompt than any before starts it anew.

        What is more than the model takes is left to vLLM to refuse.
        """
        if self._llm is not None:
            if min(length, self._most) <= self._length:
                return
            self.close()
        from vllm import LLM

        self._length = min(length, self._most)
        batch = {} if self._arguments.get("enable_chunked_prefill", True) else {"max_num_batched_tokens": self._length}
        self._llm = LLM(**{"max_model_len": self._length, **batch, **self._arguments})

    def _ask(self, asked: _Asked, params: SamplingParams, waiting: dict[str, _Asked]) -> None:
        from vllm.inputs import TokensPrompt

        number = f"{asked.question_id}/{asked.sample}/{len(asked.begun)}"
        waiting[number] = asked
        prompt = TokensPrompt(prompt_token_ids=[*asked.prompt, *asked.begun])
        self._llm.llm_engine.add_request(number, prompt, self._sampling(asked, params))

    def _answer(self, asked: _Asked, output: Any) -> Response | _Asked:
        """The finished answer, or what to ask for so that it goes on."""
        ids = [*asked.begun, *(token for token in output.token_ids if token not in self._stop_ids)]
        reason = _reason_of(output, asked)
        if output.stop_reason in self._line_end.token_ids:
            line = self._line_end.cut(ids)
            if line is None and len(ids) < self.max_tokens:
                return replace(asked, begun=tuple(ids))
            ids, reason = (ids, "length") if line is None else (line, "stop")
        return respond(self.tokenizer, asked.question_id, asked.sample, ids, reason)

    def _sampling(self, asked: _Asked, params: SamplingParams) -> Any:
        from vllm import SamplingParams as VllmParams
        from vllm.sampling_params import RequestOutputKind

        return VllmParams(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            seed=sample_key(self.seed, asked.question_id, asked.sample) + len(asked.begun),
            max_tokens=self.max_tokens - len(asked.begun),
            stop_token_ids=sorted(self._stop_ids | self._line_end.token_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def _reason_of(output: Any, asked: _Asked) -> FinishReason:
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(
            f"vLLM ended sample {asked.sample} of question {asked.question_id} with {output.finish_reason!r} and no "
            "answer: its log says why"
        )
    return "length" if output.finish_reason == "length" else "stop"
