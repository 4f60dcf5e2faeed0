"""A decode batch whose rows join and leave between steps: the loop under the sampler and the transformers engine.

Rows are left-padded: all rows end at the same cache column, so any transformers model runs with its stock
two-dimensional mask, sliding windows included. Chooses no token, applies no hook, knows no request.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from probes.row_cache import RowLayer


class Prefill:
    """Prompts that are fed together, all at once or chunk by chunk, so that rows that decode already need not wait."""

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]], *, pad_id: int = 0) -> None:
        """Prepare to feed these prompts; nothing runs yet.

        Args:
            model: A causal language model of transformers.
            prompts: Token ids of each prompt, none empty.
            pad_id: Stands left of shorter prompts, masked.
        """
        device = next(model.parameters()).device
        self.model = model
        self.columns = max(len(prompt) for prompt in prompts)
        """Fed columns when all is done: the longest prompt."""
        self.fed = 0
        """Columns fed so far."""
        self.cache = Cache(layer_class_to_replicate=RowLayer)
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        ids = torch.full((len(prompts), self.columns), pad_id, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, self.columns - len(prompt) :] = torch.tensor(prompt)
        self._ids = ids.to(device)

    def __len__(self) -> int:
        return len(self.lengths)

    def step(self, columns: int | None = None, *, logits_to_keep: int = 1) -> Tensor:
        """Feed the next columns.

        Args:
            columns: How many at most; None for all that are left.
            logits_to_keep: For how many of the last fed columns logits are computed, at least 1.

        Returns:
            Logits [rows, logits_to_keep, V].
        """
        end = self.columns if columns is None else min(self.columns, self.fed + columns)
        ids, self.fed = self._ids[:, self.fed : end], end
        return _feed(self.model, ids, self.columns - self.lengths, end, self.cache, logits_to_keep)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, at least one, in this order."""
        index = torch.tensor(rows, dtype=torch.long, device=self.lengths.device)
        self.lengths, self._ids = self.lengths[index], self._ids[index]
        for layer in self.cache.layers:
            layer.keep(index, 0)


class DecodeBatch:
    """The rows that are being generated, in the order in which they joined.

    Not thread-safe: one thread steps, joins and leaves.
    """

    def __init__(self, model: nn.Module, *, pad_id: int = 0) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.pad_id = pad_id
        self._cache: Cache | None = None
        self._lengths = torch.zeros(0, dtype=torch.long, device=self.device)

    def __len__(self) -> int:
        return len(self._lengths)

    def join(self, prompts: Sequence[Sequence[int]], copies: int = 1) -> Tensor:
        """Prefill new rows together and append them to the batch.

        Args:
            prompts: Token ids of each prompt, none empty.
            copies: Rows a prompt; they share its prefill and stand side by side.

        Returns:
            Logits of each prompt's last token [len(prompts), V]; one row a prompt, not a copy.
        """
        prefill = Prefill(self.model, prompts, pad_id=self.pad_id)
        logits = prefill.step()
        self.merge(prefill, copies)
        return logits[:, -1]

    def merge(self, prefill: Prefill, copies: int = 1) -> None:
        """Append the rows of a finished prefill, each `copies` times; the prefill is used up."""
        assert prefill.fed == prefill.columns
        lengths = prefill.lengths.repeat_interleave(copies)
        if self._cache is None:
            self._cache, self._lengths = prefill.cache, prefill.lengths
            if copies > 1:
                self.keep([row for row in range(len(prefill)) for _ in range(copies)])
            return
        for layer, new in zip(self._cache.layers, prefill.cache.layers, strict=True):
            layer.join(new, copies)
        self._lengths = torch.cat([self._lengths, lengths])

    def step(self, tokens: Tensor) -> Tensor:
        """Feed one token a row.

        Args:
            tokens: Token ids [rows].

        Returns:
            Logits of the next token [rows, V].
        """
        assert self._cache is not None
        self._lengths = self._lengths + 1
        columns = self._cache.get_seq_length() + 1
        return _feed(self.model, tokens[:, None], columns - self._lengths, columns, self._cache, 1)[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order; a row that is not named leaves, a row named twice is copied."""
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        assert self._cache is not None
        self._lengths = self._lengths[index]
        if not len(rows):
            self._cache = None
            return
        low = self._cache.get_seq_length() - int(self._lengths.max())
        for layer in self._cache.layers:
            layer.keep(index, low)


def stop_token_ids(model: nn.Module, tokenizer: Any) -> frozenset[int]:
    """End-of-sequence ids of the model's generation configuration and the tokenizer together."""
    configuration: Any = getattr(model, "generation_config", None)
    eos = configuration.eos_token_id if configuration else None
    ids = set(eos) if isinstance(eos, list) else {eos}
    return frozenset(int(token_id) for token_id in ids | {tokenizer.eos_token_id} if token_id is not None)


def _feed(model: nn.Module, ids: Tensor, start: Tensor, columns: int, cache: Cache, logits_to_keep: int) -> Tensor:
    """Run the model on the last `ids.shape[1]` of `columns` columns, which the cache will hold afterwards.

    `start` [rows] is each row's first column; the padding left of it is masked and gets position 0.
    """
    column = torch.arange(columns, device=ids.device)
    logits: Tensor = model(
        input_ids=ids,
        attention_mask=(column >= start[:, None]).long(),
        position_ids=(column[columns - ids.shape[1] :] - start[:, None]).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=logits_to_keep,
    ).logits
    return logits
