"""Networks by name, and what is asked of any network."""

from coterie.networks.logits import Logits
from coterie.networks.zoo import OWN, Network, NetworkLike, build, names

__all__ = ["OWN", "Logits", "Network", "NetworkLike", "build", "names"]
