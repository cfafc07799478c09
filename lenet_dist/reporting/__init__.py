"""Reports about runs, made from what is on disk."""

import os

# A notebook's: without the notebook's packages, matplotlib can't even be imported.
os.environ.pop("MPLBACKEND", None)
