"""Networks with fewer channels."""
