"""What the preflight looks at: each process, its device, its links, its disk, and what is wrong."""
