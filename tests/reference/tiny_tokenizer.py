"""A real byte-level BPE tokenizer with a chat template, trained here on a few sentences, for tiny models."""

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

EOS, USER, ASSISTANT = "<eos>", "<|user|>", "<|assistant|>"

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_TEXT = (
    "The capital of France is Paris. The capital of Japan is Tokyo, and the capital of Peru is Lima.",
    "What is the chemical symbol of gold? Respond with the answer only, without any explanation.",
    "Who wrote the novel? It was written by the author in the year of the great storm.",
)


@cache
def tiny_tokenizer(*, has_template: bool = True) -> Any:
    """About 330 tokens; every byte is one of them, so any text can be encoded."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[EOS, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=EOS, chat_template=TEMPLATE if has_template else None
    )


@cache
def with_newlines(*, has_template: bool = True) -> Any:
    """A hundred words, some of which are blank, and every newline there can be: alone, in a row, after something."""
    words = [f" w{number}" for number in range(70)] + [" ", "\r", ".", " Paris"]
    lines = [f"{text}{end}" for text in ("", " ", ".", "\r") for end in ("\n", "\n\n", "\n\n\n", "\n ", "\n\n ")]
    core = Tokenizer(models.WordLevel({token: at for at, token in enumerate([EOS, *words, *lines])}, unk_token=EOS))
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=EOS, chat_template=TEMPLATE if has_template else None
    )
