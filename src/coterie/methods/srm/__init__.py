"""Sparse representation matching, and all that serves it alone."""

from coterie.methods.srm.method import Srm

__all__ = ["Srm"]
