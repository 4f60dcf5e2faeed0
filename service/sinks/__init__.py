"""Where a record goes once its request has ended: access log, audit log and tracing."""
