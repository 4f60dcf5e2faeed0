"""Labelled sentences and tokens of longer texts, and how well scores order them."""
