"""Pages over runs, made from what lies on disk."""
