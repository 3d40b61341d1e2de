"""Online ensemble model compression, and all that serves it alone."""

from coterie.methods.oem.method import Oem
from coterie.methods.oem.slimmable import SlimmedEnsemble, slimmed_ensemble
from coterie.methods.oem.slimming import slim

__all__ = ["Oem", "SlimmedEnsemble", "slim", "slimmed_ensemble"]
