"""LeNet-5 and the running mean of its weights."""
