"""LeNet-5, the EMA of its weights, and a look inside."""
