"""The model card of a probe."""
