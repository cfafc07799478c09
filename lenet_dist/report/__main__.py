"""`python -m lenet_dist.report`."""

from lenet_dist import exits
from lenet_dist.report import main

if __name__ == "__main__":
    exits.run(main)
