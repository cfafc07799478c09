"""`python -m lenet_dist.track`."""

from lenet_dist import exits
from lenet_dist.track import main

if __name__ == "__main__":
    exits.run(main)
