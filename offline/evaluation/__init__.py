"""Held-out evidence: AUROC and differences with intervals, domains, kept scores, the gate between two probes."""
