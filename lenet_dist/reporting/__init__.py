"""Reports about runs, made from what is on disk."""
