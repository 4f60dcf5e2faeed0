"""The guard, pure: evidence in, a judged response out, and what a policy makes of it. No HTTP, settings or clock."""
