"""Online ensemble model compression, and all that serves it alone."""

from coterie.methods.oem.method import Oem
from coterie.methods.oem.slimmable import SlimmableEnsemble, make_slimmable_ensemble
from coterie.methods.oem.slimming import slim_network

__all__ = ["Oem", "SlimmableEnsemble", "make_slimmable_ensemble", "slim_network"]
