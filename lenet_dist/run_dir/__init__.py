"""RUN, a run's directory: writing and reading every file in it."""
