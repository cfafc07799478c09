"""Everything there is to measure on a GPU machine, in one resumable session."""
