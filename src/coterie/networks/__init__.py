"""Networks by name, and what is asked of any network."""

from coterie.networks.logits import Logits
from coterie.networks.moving_average import MovingAverage
from coterie.networks.zoo import NETWORKS, Backbone, BackboneLike, NetworkEntry, build, names

__all__ = ["NETWORKS", "Backbone", "BackboneLike", "Logits", "MovingAverage", "NetworkEntry", "build", "names"]
