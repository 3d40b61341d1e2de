"""A network's forward, split at a module into a trunk and a tail."""
