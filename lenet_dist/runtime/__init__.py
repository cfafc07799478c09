"""What a job stands on: processes, signals, the run directory and its lock."""
