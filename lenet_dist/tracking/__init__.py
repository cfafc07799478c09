"""What a run says of itself: metrics.jsonl, the terminal, W&B."""
