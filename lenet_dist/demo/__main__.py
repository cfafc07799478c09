"""`python -m lenet_dist.demo`."""

from lenet_dist import exits
from lenet_dist.demo import main

if __name__ == "__main__":
    exits.run(main)
