"""What a model reference may lead to: a GGUF file, files in the cache, one line that refuses."""

import json

import pytest

from probes.models import ModelReferenceError, resolve_model
from tests.reference.tiny_tokenizer import tiny_tokenizer


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def refuse(reference, message):
    with pytest.raises(ModelReferenceError, match=message) as caught:
        resolve_model(reference)
    assert "\n" not in str(caught.value)


def write_gguf(path, seed=0, add_bos=None):
    """A tiny Llama as llama.cpp writes it."""
    import gguf
    import numpy as np

    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    hidden, width, heads, vocabulary = 32, 48, 4, tiny_tokenizer().get_vocab()
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_block_count(2)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_types([3 if at < 3 else 1 for at in range(len(vocabulary))])
    merges = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.add_chat_template(tiny_tokenizer().chat_template)
    tensors = {"token_embd.weight": (len(vocabulary), hidden), "output_norm.weight": (hidden,)}
    tensors["output.weight"] = (len(vocabulary), hidden)
    for layer in range(2):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"blk.{layer}.{name}.weight"] = (hidden, hidden)
        tensors[f"blk.{layer}.ffn_gate.weight"] = tensors[f"blk.{layer}.ffn_up.weight"] = (width, hidden)
        tensors[f"blk.{layer}.ffn_down.weight"] = (hidden, width)
        tensors[f"blk.{layer}.attn_norm.weight"] = tensors[f"blk.{layer}.ffn_norm.weight"] = (hidden,)
    values = {name: draw.normal(size=shape).astype(np.float32) for name, shape in tensors.items()}
    for name, array in values.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values
