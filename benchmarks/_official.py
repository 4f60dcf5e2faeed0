"""The official feature extraction, run from a checkout of github.com/thunlp/H-Neurons on text that ours sees as ids.

Its script was written for an older tokenizer interface, which is put back around ours. Times nothing.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from offline.extraction.passages import Passage


class Conversation:
    """A question and the model's answer, as text for the official script and as token ids for ours."""

    def __init__(self, key: str, prompt: str, text: str, passage: Passage, tokenizer: Any) -> None:
        self.key, self.prompt, self.text, self.passage = key, prompt, text, passage
        answer = passage.response_ids[passage.spans[0].start : passage.spans[0].end]
        self.answer_tokens = [tokenizer.decode([token]) for token in answer]


def render(tokenizer: Any, prompt: str, text: str) -> list[int]:
    """Token ids of the conversation as the official script renders it."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
    return list(tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False).input_ids)


class Official:
    """The loop of the official script's `main`, with its own manager and region logic."""

    def __init__(
        self, official: Any, model: nn.Module, tokenizer: Any, conversations: Sequence[Conversation], folder: Path
    ) -> None:
        self.official, self.model, self.conversations, self.folder = official, model, conversations, folder
        self.tokenizer = OldTokenizer(tokenizer)
        self.manager = official.CETTManager(model)
        self._unhook()

    def __call__(self) -> None:
        """Extract every conversation once."""
        self.manager._register_hooks()
        for conversation in self.conversations:
            self.manager.clear()
            messages = [
                {"role": "user", "content": conversation.prompt},
                {"role": "assistant", "content": conversation.text},
            ]
            ids = self.tokenizer.apply_chat_template(messages, return_tensors="pt", add_generation_prompt=False)
            with torch.no_grad():
                self.model(ids)
            cett = self.manager.get_cett_tensor(use_abs=True, use_mag=True)
            regions = self.official.get_region_indices(
                ids, self.tokenizer, conversation.prompt, conversation.text, conversation.answer_tokens
            )
            start, end = regions["answer_tokens"]
            own, other = cett[:, start:end], torch.cat([cett[:, :start], cett[:, end:]], dim=1)
            for name, part in (("answer", own), ("other", other)):
                np.save(self.path(name, conversation.key), part.mean(dim=1).cpu().float().numpy())
        self._unhook()

    def path(self, name: str, key: str) -> Path:
        """Where the features of a region are."""
        return self.folder / f"{name}-{key.replace('/', '-')}.npy"

    def is_same_span(self, conversation: Conversation) -> bool:
        """Whether its region, the first look-alike, is the span that ours was given."""
        ids = torch.tensor([conversation.passage.token_ids])
        regions = self.official.get_region_indices(
            ids, self.tokenizer, conversation.prompt, conversation.text, conversation.answer_tokens
        )
        p, span = len(conversation.passage.prompt_ids), conversation.passage.spans[0]
        return bool(regions["answer_tokens"] == (p + span.start, p + span.end))

    def _unhook(self) -> None:
        for hook in self.manager.hooks:
            hook.remove()
        self.manager.hooks.clear()


class OldTokenizer:
    """The tokenizer, whose template call returns a tensor as it did when the official script was written."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        """The token ids alone."""
        return self._tokenizer.apply_chat_template(*args, **kwargs, return_dict=False)


def load_official(path: Path) -> Any:
    """Its script as a module."""
    script = path / "scripts" / "extract_activations.py"
    spec = importlib.util.spec_from_file_location("official_extract_activations", script)
    if spec is None or spec.loader is None or not script.exists():
        raise SystemExit(f"{script} does not exist: give a checkout of github.com/thunlp/H-Neurons")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
