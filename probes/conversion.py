"""A GGUF file -> a folder of bfloat16 safetensors and tokenizer, as transformers dequantises it.

Sets what transformers does not take from the file. Knows no cache and no package index.
"""

import functools
import mmap
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from probes.packaged import SAMPLE, ModelReferenceError, PackagedModel


def convert_gguf(gguf: Path, folder: Path, tested: PackagedModel | None = None) -> None:
    """Convert a file into a folder that does not exist yet.

    Args:
        gguf: The file.
        folder: What to make; left half-made by an error.
        tested: What is known of the file, if it is a packaged model's.

    Raises:
        ModelReferenceError: transformers cannot convert the file, or makes another tokenizer of it than was tested.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, __version__

    try:
        with _read_once():
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.bfloat16,
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError, LookupError, struct.error) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelReferenceError(f"{gguf} is no GGUF model that can be converted: {line}") from error
    if _wants_bos(gguf) and tokenizer("a").input_ids[:1] != [tokenizer.bos_token_id]:
        tokenizer.add_bos_token = True  # transformers 5.19 leaves it out for Gemma, 5.23 does not
    if tested is not None:
        ids = tokenizer(SAMPLE).input_ids
        if ids != list(tested.sample_ids):  # transformers 5.17 cuts text into letters for Gemma
            raise ModelReferenceError(
                f"transformers {__version__} makes another tokenizer of {gguf.name} than the one this release was "
                f"tested with ({SAMPLE!r} is {ids}, expected {list(tested.sample_ids)}): install a newer transformers"
            )
        _add_stop_tokens(model, tokenizer, tested.stop_tokens)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _read_once() -> Iterator[None]:
    """Let transformers parse a GGUF file once: it parses all keys anew for configuration, weights and tokenizer.

    With a vocabulary of 262,144 tokens each time takes seconds.
    """
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(reader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


def _wants_bos(gguf: Path) -> bool:
    """Whether the file says that text begins with its beginning-of-sequence token.

    A key is written as length (8 bytes), name and type (4 bytes, 7 is bool); it is looked for as such, because reading
    all keys of a large vocabulary takes seconds.
    """
    name = b"tokenizer.ggml.add_bos_token"
    key = struct.pack("<Q", len(name)) + name + struct.pack("<I", 7)
    with gguf.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(key)
        return at >= 0 and data[at + len(key)] == 1


def _add_stop_tokens(model: Any, tokenizer: Any, tokens: Sequence[str]) -> None:
    """Put these tokens beside the file's own end-of-sequence id, where `probes.decoding.stop_token_ids` looks."""
    if tokens:
        vocabulary, configuration = tokenizer.get_vocab(), model.generation_config
        configuration.eos_token_id = [configuration.eos_token_id, *(vocabulary[token] for token in tokens)]
