"""Extraction on vLLM: the same features into the same store. Imported only when it is chosen.

Every passage is a prompt of which one token is generated. vLLM's worker reduces what its down projections do to sums
over the passage's token groups and writes finished rows into the store itself (`offline.extraction.vllm_extract`):
features never travel between processes. vLLM runs eagerly, because what is summed differs from step to step, and
without a prefix cache, because a cached token is not fed and its CETT would be missing.
"""

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from offline.extraction.extract import FeatureStore
from offline.extraction.passages import Passage
from offline.extraction.vllm_extract.runner import describe
from probes.checkpoint import Checkpoint
from probes.vllm_start import start_arguments, tappable_runner

_WORKERS = {
    "cpu": "offline.extraction.vllm_extract.cpu_worker.CPUExtractWorker",
    "cuda": "offline.extraction.vllm_extract.gpu_worker.GPUExtractWorker",
}


class VllmExtractor:
    """Fills stores with an engine of its own, until `close`."""

    def __init__(
        self,
        folder: Path,
        *,
        max_length: int,
        dtype: str = "auto",
        device: str = "auto",
        batch_tokens: int = 8192,
        batch_rows: int = 64,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Start vLLM; takes half a minute or more.

        Args:
            folder: What `probes.models.resolve_model` returned.
            max_length: Tokens of the longest passage.
            dtype: See `probes.models.load_model`.
            device: `cpu`, `cuda` or `auto`; one device, there is no tensor parallelism here.
            batch_tokens: Tokens a step; a longer passage takes several.
            batch_rows: Passages a step; each takes 24 bytes a neuron of memory.
            arguments: More of vLLM's engine arguments, by their names there.

        Raises:
            ValueError: The model is a mixture of experts.
            IncompatibleVllmError: The environment asks for vLLM's other model runner.
        """
        _refuse_experts(Checkpoint(folder))
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM

        place, known = start_arguments(folder, dtype, device)
        self._most_waiting = 4 * batch_rows
        with tappable_runner():
            self._llm: Any = LLM(
                **known,
                enforce_eager=True,
                enable_prefix_caching=False,
                enable_chunked_prefill=True,
                max_model_len=max_length + 1,
                max_num_batched_tokens=batch_tokens,
                max_num_seqs=batch_rows,
                worker_cls=_WORKERS[place],
                **(arguments or {}),
            )

    def extract(self, passages: Sequence[Passage], store: FeatureStore) -> None:
        """Fill the store; see `offline.extraction.extract.extract`. After an error only `close` is left.

        Raises:
            ValueError: A passage is longer than `max_length`, or the model gave features that are not finite.
        """
        from vllm.inputs import TokensPrompt

        engine, done = self._llm.llm_engine, store.done
        todo = deque(row for row in range(len(passages)) if not done[row])
        arguments = (str(store.folder.resolve()), list(store.keys), store.settings["neurons"], store.settings)
        self._llm.collective_rpc("hguard_open", args=arguments)
        waiting: set[int] = set()
        with tqdm(total=len(passages), initial=len(passages) - len(todo), desc="features", unit="row") as bar:
            while todo or waiting:
                while todo and len(waiting) < self._most_waiting:
                    row = todo.popleft()
                    waiting.add(row)
                    prompt = TokensPrompt(prompt_token_ids=list(passages[row].token_ids))
                    engine.add_request(str(row), prompt, _params(row, passages[row]))
                finished = [int(output.request_id) for output in engine.step() if output.finished]
                waiting.difference_update(finished)
                if np.isnan(store.signals[finished]).any():
                    raise ValueError(self._llm.collective_rpc("hguard_why")[0])
                bar.update(len(finished))

    def close(self) -> None:
        """Give the device back."""
        engine, self._llm = self._llm, None
        engine.llm_engine.engine_core.shutdown()


def extract_on_vllm(
    folder: Path, passages: Sequence[Passage], store: FeatureStore, *, dtype: str = "auto", device: str = "auto"
) -> None:
    """Fill the store with an engine that is started for it, unless all is done; see `VllmExtractor`."""
    if store.done.all():
        return
    longest = max(passage.length for passage in passages)
    extractor = VllmExtractor(folder, max_length=longest, dtype=dtype, device=device)
    try:
        extractor.extract(passages, store)
    finally:
        extractor.close()


def _params(row: int, passage: Passage) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0,
        max_tokens=1,
        detokenize=False,
        extra_args=describe(row, passage),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _refuse_experts(checkpoint: Checkpoint) -> None:
    for layer, block in enumerate(checkpoint.blocks):
        if not block.gives_h:
            raise ValueError(
                f"layer {layer} is a mixture of experts, which is not extracted on vLLM: use --extractor transformers"
            )
