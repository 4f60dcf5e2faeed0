"""Where questions come from: files and hubs, and the two builtin sets."""
