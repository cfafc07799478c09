"""LeNet-5, the running mean of its weights, and a look inside."""
