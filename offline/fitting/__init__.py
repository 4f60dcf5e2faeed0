"""Probe, residual head, the risk made of parts, its calibration and thresholds; and what they are compared with."""
