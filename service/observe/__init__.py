"""What is noted while a request is served: its record, the metrics and the lines of the log."""
