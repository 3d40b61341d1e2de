"""Networks by name, and any network as a native ensemble."""

from coterie.networks.aggregate import Gate, gated
from coterie.networks.answers import Logits
from coterie.networks.branch import branch, cuts
from coterie.networks.native import NativeEnsemble
from coterie.networks.slim import slim
from coterie.networks.slimmed import SlimmedEnsemble, slimmed_ensemble
from coterie.networks.zoo import OWN, Network, NetworkLike, build, names

__all__ = [
    "OWN",
    "Gate",
    "Logits",
    "NativeEnsemble",
    "Network",
    "NetworkLike",
    "SlimmedEnsemble",
    "branch",
    "build",
    "cuts",
    "gated",
    "names",
    "slim",
    "slimmed_ensemble",
]
