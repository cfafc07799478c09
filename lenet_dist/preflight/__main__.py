"""`python -m lenet_dist.preflight`."""

from lenet_dist import exits
from lenet_dist.preflight import main

if __name__ == "__main__":
    exits.run(main)
