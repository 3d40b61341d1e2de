"""Compact structure learning: a network learns how wide its layers need to be, and is trained by its full self."""

from coterie.methods.compact.method import Compact

__all__ = ["Compact"]
