"""What a run reports while it trains: on the terminal, to W&B, to TensorBoard."""
