"""Training: an annotator by LoRA on graded pairs, its merge, and the small re-ranker."""
