"""Facts of this machine: what it has, what runs on it, how long things took."""
