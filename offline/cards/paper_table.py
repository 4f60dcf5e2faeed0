"""The paper's Table 1, which our numbers stand beside (arXiv 2512.01797)."""

COLUMNS = ("TriviaQA", "NQ", "BioASQ", "NonExist")
PAPER = (
    ("Mistral-7B-v0.3", ".35", "78.4 (61.7)", "71.5 (56.1)", "75.5 (59.4)", "91.1 (80.9)"),
    ("Mistral-Small-3.1-24B", ".01", "81.0 (61.1)", "71.3 (56.8)", "69.5 (52.8)", "86.6 (57.4)"),
    ("Gemma-3-4B", ".10", "76.9 (62.0)", "70.7 (59.7)", "71.0 (56.0)", "71.9 (56.9)"),
    ("Gemma-3-27B", ".18", "83.6 (65.2)", "68.6 (58.5)", "72.0 (61.8)", "95.9 (58.2)"),
    ("Llama-3.1-8B", ".02", "70.1 (56.1)", "63.3 (53.0)", "66.0 (52.9)", "43.1 (50.6)"),
    ("Llama-3.3-70B", ".01", "82.7 (68.4)", "67.2 (58.9)", "74.3 (66.9)", "96.7 (69.6)"),
)
"""Model, H-neurons per mille, then accuracy in % by column, that of as many random neurons in brackets."""
