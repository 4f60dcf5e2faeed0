"""What is fitted on: the table of rows, its views, residual streams and p(True)."""
