"""The sampler on vLLM: the same jobs, answered by its continuous batching. Imported only when it is chosen.

A question's samples share its prompt in vLLM's prefix cache. Each has a seed of its own, so that a resumed run draws
the same answers whatever else is in the batch, up to the rounding of its logits. Judges nothing, reads no neuron.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from offline.records import FinishReason, Question, Response
from offline.sample import Job, respond, sample_key
from probes.checkpoint import Checkpoint
from probes.decoding import stop_token_ids
from probes.models import pick_device, pick_dtype
from probes.sampling import SamplingParams

_CPU_CACHE_BYTES = 2 << 30


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
        """
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM

        self.tokenizer, self.seed, self.max_tokens, self.encode = tokenizer, seed, max_tokens, encode
        self._stop_ids = stop_token_ids(Checkpoint(folder).skeleton, tokenizer)
        place = pick_device(device)
        on_cpu: dict[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_CACHE_BYTES}
        self._llm: Any = LLM(
            model=str(folder),
            dtype=str(pick_dtype(dtype, place)).removeprefix("torch."),
            skip_tokenizer_init=True,
            generation_config="vllm",
            max_num_seqs=max_rows,
            **(on_cpu if place.type == "cpu" else {}),
        )

    def draw(self, jobs: Sequence[Job], params: SamplingParams) -> Iterator[list[Response]]:
        """Answer all jobs; finished responses come in small lists, in the order in which they finish."""
        from vllm.inputs import TokensPrompt

        engine = self._llm.llm_engine
        waiting: dict[str, tuple[str, int]] = {}
        for job in jobs:
            prompt = TokensPrompt(prompt_token_ids=self.encode(job.question))
            for sample in job.samples:
                number = f"{job.question.question_id}/{sample}"
                waiting[number] = (job.question.question_id, sample)
                engine.add_request(number, prompt, self._sampling(job.question.question_id, sample, params))
        while waiting:
            done = []
            for output in engine.step():
                if output.finished:
                    answer = output.outputs[0]
                    question_id, sample = waiting.pop(output.request_id)
                    ids = [token for token in answer.token_ids if token not in self._stop_ids]
                    reason: FinishReason = "length" if answer.finish_reason == "length" else "stop"
                    done.append(respond(self.tokenizer, question_id, sample, ids, reason))
            if done:
                yield done

    def close(self) -> None:
        """Give the device back."""
        engine, self._llm = self._llm, None
        engine.llm_engine.engine_core.shutdown()

    def _sampling(self, question_id: str, sample: int, params: SamplingParams) -> Any:
        from vllm import SamplingParams as VllmParams
        from vllm.sampling_params import RequestOutputKind

        return VllmParams(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            seed=sample_key(self.seed, question_id, sample),
            max_tokens=self.max_tokens,
            stop_token_ids=sorted(self._stop_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
