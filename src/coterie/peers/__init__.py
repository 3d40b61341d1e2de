"""Networks that learn beside each other: branches of one network, or networks side by side, and what combines them."""

from coterie.peers.branching import branch, split_points
from coterie.peers.combine import Gate, gate_logits
from coterie.peers.independent import Group, Separate
from coterie.peers.native_ensemble import NativeEnsemble

__all__ = ["Gate", "Group", "NativeEnsemble", "Separate", "branch", "gate_logits", "split_points"]
