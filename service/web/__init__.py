"""What every request and answer of the HTTP service has: an id, a checked body, errors of one shape, an end."""
