"""Text or chat messages -> prompt token ids, the same way offline and online."""

from collections.abc import Mapping, Sequence
from typing import Any

ANSWER_ONLY = " Respond with the answer only, without any explanation."
"""Appended to every training question (arXiv 2512.01797, appendix; `collect_responses.py` of thunlp/H-Neurons)."""


class NoChatTemplateError(ValueError):
    """Messages were given to a model whose tokenizer has no chat template."""


def encode_messages(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation, rendered by the model's own chat template, ready for the assistant's turn.

    Raises:
        NoChatTemplateError: The model is a base model; send a raw prompt instead.
    """
    if not tokenizer.chat_template:
        raise NoChatTemplateError('this model has no chat template: send "prompt" with "raw": true')
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    # The template writes the special tokens itself.
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def encode_prompt(tokenizer: Any, prompt: str, *, raw: bool = False) -> list[int]:
    """Token ids of one user turn; with `raw`, of the text itself with the tokenizer's own special tokens."""
    if raw:
        return list(tokenizer(prompt).input_ids)
    return encode_messages(tokenizer, [{"role": "user", "content": prompt}])
