"""Who may come in, for what, and how many at once: keys with scopes and limits, rate limits, and the bounded queue."""
