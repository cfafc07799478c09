"""`python -m lenet_dist.benchmark`."""

from lenet_dist import exits
from lenet_dist.benchmark import main

if __name__ == "__main__":
    exits.run(main)
