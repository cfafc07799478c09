"""`python -m lenet_dist.train`."""

from lenet_dist import exits
from lenet_dist.train import main

if __name__ == "__main__":
    exits.run(main)
