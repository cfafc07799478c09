"""Images: fetched, verified, held in memory, ordered and distorted by counter-based randomness."""
