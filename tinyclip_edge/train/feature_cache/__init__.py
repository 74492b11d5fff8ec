"""Teacher features computed once and stored."""
