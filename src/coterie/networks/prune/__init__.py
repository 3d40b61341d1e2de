"""Networks with fewer channels: which channels belong together, which are kept for a budget, and their removal."""
