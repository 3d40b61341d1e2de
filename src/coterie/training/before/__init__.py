"""What is said, refused and estimated before a training begins."""
