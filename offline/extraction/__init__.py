"""One forward pass over answered prompts: CETT sums and residual streams on disk, with transformers or vLLM."""
