"""The methods' losses, for a training loop of your own."""

from coterie.methods.online.one import one_loss as one

__all__ = ["one"]
