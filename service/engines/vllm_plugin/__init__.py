"""The worker's side of the vLLM engine: what runs inside vLLM's processes. Imports nothing of the HTTP service.

tap_config.py  what the front end and the workers agree on before the model is compiled
compat.py      the vLLM internals that are used, checked at start
modes.py       the modes of vLLM that are refused
buffers.py     persistent tensors that the compiled graph reads and writes
wires.py       the tapped down projection: pure torch operations on those buffers
expert_wires.py  the same for routed experts, whose z is computed again
step_tap.py    one engine step: whose rows are scaled by what, and the evidence columns of the rows that are read
row_signals.py norm and entropy of rows of logits
runner.py      where that is called in vLLM's model runner
worker.py      worker classes for CPU and CUDA, chosen by `worker_cls`, and what they answer over RPC
"""
