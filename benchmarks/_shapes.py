"""Models of a known size without their weights: a configuration and a tokenizer, for vLLM's `load_format="dummy"`.

What a step costs does not depend on the weights; what it answers means nothing.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import LlamaConfig, PreTrainedTokenizerBase

from probes.checkpoint import Checkpoint
from probes.neurons import NeuronSet

SHAPES: dict[str, dict[str, Any]] = {
    "llama-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
    },
    "llama-tiny": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128256,
        "max_position_embeddings": 2048,
    },
}
"""Llama 3.1 8B; a tiny one with its vocabulary, which shows on a CPU that a script works."""


class WeightlessCheckpoint(Checkpoint):
    """Gives every neuron norm 1, since there are no weights to read."""

    def column_norms(self, neurons: NeuronSet) -> NDArray[np.float32]:
        """1 for each of them [K]."""
        return np.ones(len(neurons.index), dtype=np.float32)


def write_shape(name: str, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """A model folder without weights.

    Args:
        name: One of `SHAPES`.
        tokenizer: Of any model with a smaller vocabulary.
        folder: Where to; it exists.
    """
    config = LlamaConfig(
        **SHAPES[name],
        architectures=["LlamaForCausalLM"],
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
