"""Asking the model: greedy answers, temperature samples, with transformers or vLLM."""
