"""LeNet-5 on MNIST: the distributed training job, done right, on Hugging Face Accelerate."""

__version__ = "0.2.0"
