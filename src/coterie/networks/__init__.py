"""Networks by name, and any network as a native ensemble."""
