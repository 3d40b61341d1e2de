"""What a network computes while it runs: its calls of modules, and features at places of it."""
