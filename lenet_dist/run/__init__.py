"""RUN, a run's directory: every file in it, written and read."""
