"""The worker's side of extraction on vLLM: what runs inside vLLM's processes.

worker.py      taps the model after its weights are loaded, and writes into the feature store
runner.py      where that is called in vLLM's model runner
cpu_worker.py  the worker classes, chosen by `worker_cls`; apart, because vLLM's CPU worker changes torch when it is
gpu_worker.py  imported
"""
