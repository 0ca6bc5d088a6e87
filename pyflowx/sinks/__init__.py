"""IO: where rows go."""
