"""Training annotators and re-rankers."""
