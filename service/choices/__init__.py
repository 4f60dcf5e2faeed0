"""One response: planned, generated or held, judged where that may fail, and reported as the contract says.

`offload` keeps the long work of it off the event loop; `shadow` judges it a second time, for the metrics only.
"""
