"""Images: fetched and verified, held in memory, ordered and distorted by counters."""
