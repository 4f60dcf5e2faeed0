"""From answers to labelled rows: judges, answer spans, the consistency filter, splits and balance."""
