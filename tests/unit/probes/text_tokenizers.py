"""Tiny tokenizers of the two kinds that cut text, and texts that are hard to cut."""

import json
from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "The capital of France is Paris.",
    "Paris",
    " leading and trailing ",
    "naïve café, Padmé Amidala\u2019s O'Neill",
    "首都は東京です。",
    "A helicopter 🚁 and a family 👨‍👩‍👧‍👦!",
    "e\u0301 combining, tabs\tand\n\nlines",
    "🚁🚁🚁",
    "",
]


@cache
def make_tokenizer(kind):
    """A tiny real tokenizer: byte-level BPE that splits characters, or one with SentencePiece's leading-space marks."""
    special = ["<|endoftext|>", "<|im_end|>"]
    sample = ["The capital of France is Paris. The answer is London in England, Paris in France."] * 4
    if kind == "byte-level":
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        raw.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
        raw.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = []
        special = ["<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
    raw.train_from_iterator(
        sample, trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet)
    )
    if kind != "byte-level":
        # The byte pieces had to be in the vocabulary, but they are text: decoding skips special tokens.
        saved = json.loads(raw.to_str())
        saved["added_tokens"] = [token for token in saved["added_tokens"] if not token["content"].startswith("<0x")]
        raw = Tokenizer.from_str(json.dumps(saved))
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", clean_up_tokenization_spaces=False)


def decode(tokenizer, token_ids):
    return tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
