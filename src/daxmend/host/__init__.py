"""What the running Linux offers: thin, typed, without policy."""
