"""One teacher-forced pass over a batch of passages: features of every neuron and the free signals of the response.

Two things are not done twice or in vain. A chat template begins every prompt with the same tokens; under a causal mask
they are the same in every row, so they are fed once: their keys and values are kept, and their mean CETT is added to
every group that counts them. And logits are taken of the rows that predict a response token, and of no other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from offline.extraction.passages import GROUPS, Passage, group_weights, shared_prefix
from probes.reducing_tap import ReducingTap
from probes.signals import free_signals

SIGNALS = ("mean_logprob", "min_logprob", "mean_entropy", "max_entropy", "n_tokens")
"""Of the answer tokens; the same of the whole response follow with the prefix `response_`."""


class PassageReader:
    """Reads passages whose prompts begin alike: `read` batches inside `with reader.attached()`."""

    def __init__(self, model: nn.Module, passages: Sequence[Passage]) -> None:
        """Prepare to read; nothing runs yet.

        Args:
            model: A supported causal language model of transformers.
            passages: All that will be read.
        """
        self.model = cast("PreTrainedModel", model)
        self.tap = ReducingTap(model)
        self.prefix = shared_prefix(passages)
        self._device = next(model.parameters()).device
        self._needed = (torch.empty(0), torch.empty(0))
        self._prefix_cett = torch.empty(0)
        self._prefix_cache = DynamicCache()

    @contextmanager
    def attached(self) -> Iterator["PassageReader"]:
        """Hook the model and feed what is shared; unhooked on leaving, also after an error."""

        def pick_needed(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (args[0][self._needed][None],)

        with self.tap.attached():
            handle = self.model.get_output_embeddings().register_forward_pre_hook(pick_needed)
            try:
                self._feed_prefix()
                yield self
            finally:
                handle.remove()

    @torch.inference_mode()
    def read(self, batch: Sequence[Passage]) -> tuple[Tensor, list[dict[str, float]]]:
        """Features and free signals of a few passages.

        Rows are right-padded: under a causal mask no real token sees the padding, so no mask is needed.

        Args:
            batch: B of the passages, none with an empty response.

        Returns:
            Features [B, G, neurons] float32, and the signals of each passage.
        """
        shared, columns = len(self.prefix), max(passage.length for passage in batch)
        ids = torch.zeros(len(batch), columns - shared, dtype=torch.long)
        for row, passage in enumerate(batch):
            ids[row, : passage.length - shared] = torch.tensor(passage.token_ids[shared:])
        weights = torch.stack([group_weights(passage, columns) for passage in batch]).to(self._device)
        lengths = [len(passage.response_ids) for passage in batch]
        self._needed = (
            torch.arange(len(batch)).repeat_interleave(torch.tensor(lengths)),
            torch.cat([torch.arange(n) + len(p.prompt_ids) - 1 - shared for n, p in zip(lengths, batch, strict=True)]),
        )
        features, output = self.tap.run(
            weights[:, :, shared:],
            input_ids=ids.to(self._device),
            past_key_values=self._expand_cache(len(batch)) if shared else None,
            use_cache=shared > 0,
        )
        for group, share in enumerate(weights[:, :, :shared].sum(dim=-1).unbind(dim=1)):
            if shared and GROUPS[group] in ("other", "other_ahead", "prompt"):
                features[:, group].addr_(share, self._prefix_cett)
        signals = []
        for passage, logits in zip(batch, output.logits[0].split(lengths), strict=True):
            logprobs, entropies = free_signals(logits, torch.tensor(passage.response_ids, device=self._device))
            signals.append(pool_signals(logprobs, entropies, passage.answer.to(self._device)))
        return features, signals

    @torch.inference_mode()
    def _feed_prefix(self) -> None:
        if not self.prefix:
            return
        size = len(self.prefix)
        self._needed = (torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
        features, output = self.tap.run(
            torch.full((1, 1, size), 1 / size, device=self._device),
            input_ids=torch.tensor([self.prefix], device=self._device),
            past_key_values=DynamicCache(),
            use_cache=True,
        )
        self._prefix_cett, self._prefix_cache = features[0, 0], output.past_key_values

    def _expand_cache(self, rows: int) -> DynamicCache:
        cache = DynamicCache()
        for at, layer in enumerate(self._prefix_cache.layers):
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), at)
        return cache


def pool_signals(logprobs: Tensor, entropies: Tensor, answer: Tensor) -> dict[str, float]:
    """The free signals of the answer tokens (mask [T]) and of the whole response."""
    pooled: dict[str, float] = {}
    for prefix, part in (("", answer), ("response_", torch.ones_like(answer))):
        values: tuple[Any, ...] = (
            logprobs[part].mean(),
            logprobs[part].min(),
            entropies[part].mean(),
            entropies[part].max(),
            part.sum(),
        )
        pooled |= {prefix + name: float(value) for name, value in zip(SIGNALS, values, strict=True)}
    return pooled
