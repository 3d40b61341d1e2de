"""Networks by name, and what is asked of any network."""

from coterie.networks.logits import Logits
from coterie.networks.zoo import OWN, Backbone, BackboneLike, build, names

__all__ = ["OWN", "Backbone", "BackboneLike", "Logits", "build", "names"]
