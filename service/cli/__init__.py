"""The command line: `hguard ask`, `probes`, `doctor`, and the commands that are modules of their own."""
