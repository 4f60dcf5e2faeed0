"""Text or chat messages -> prompt token ids, the same way offline and online.

A model with a chat template is asked through it. A base model has none: it continues text, and a bare question it
continues with more questions, so it is shown a few question-and-answer pairs and the beginning of the next. Does not
end an answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

ANSWER_ONLY = " Respond with the answer only, without any explanation."
"""Appended to every training question (arXiv 2512.01797, appendix; `collect_responses.py` of thunlp/H-Neurons)."""

BASE_EXAMPLES = (
    ("Which country has Lisbon as its capital?", "Portugal"),
    ("Who painted the ceiling of the Sistine Chapel?", "Michelangelo"),
    ("How many sides does a hexagon have?", "Six"),
    ("What gas do plants take in from the air?", "Carbon dioxide"),
    ("Which river flows through Cairo?", "The Nile"),
)
"""What a base model is shown first: short right answers, so that it gives one too and ends the line after it."""

_PAIR = "Question: {}\nAnswer:"
"""No space after the colon: it belongs to the answer's first token."""

BASE_PROMPT = "".join(f"{_PAIR.format(question)} {answer}\n\n" for question, answer in BASE_EXAMPLES) + _PAIR
"""How a base model is asked."""


class NoChatTemplateError(ValueError):
    """Messages were given to a model whose tokenizer has no chat template."""


def encode_messages(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation, rendered by the model's own chat template, ready for the assistant's turn.

    Raises:
        NoChatTemplateError: The model is a base model and knows no turns; ask it one question with `encode_prompt`.
    """
    if not tokenizer.chat_template:
        raise NoChatTemplateError(
            'this model is a base model without a chat template and takes no "messages": send the question as "prompt"'
        )
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    # The template writes the special tokens itself.
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def encode_prompt(tokenizer: Any, prompt: str, *, raw: bool = False) -> list[int]:
    """Token ids of one question.

    Args:
        tokenizer: The model's.
        prompt: The question; with `raw` the very text that the model continues.
        raw: Feed the text itself, whatever the model.

    Returns:
        With a chat template, one user turn of it; else the text in `BASE_PROMPT`, or the raw text, with the special
        tokens that the tokenizer adds. A beginning-of-sequence token that the text wrote already is not added again.
    """
    if tokenizer.chat_template and not raw:
        return encode_messages(tokenizer, [{"role": "user", "content": prompt}])
    ids = list(tokenizer(prompt if raw else BASE_PROMPT.format(prompt)).input_ids)
    return ids[1:] if ids[:2] == [tokenizer.bos_token_id] * 2 else ids
