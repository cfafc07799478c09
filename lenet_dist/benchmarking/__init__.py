"""The job and its baselines, measured in turn."""
