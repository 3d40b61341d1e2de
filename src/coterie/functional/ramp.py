"""How a loss term's weight rises during training."""

import math


def ramp_up(progress: float, length: float) -> float:
    """The sigmoid ramp exp(-5 (1 - t)²), t = min(progress / length, 1), from 0.0067 up to 1.

    (Laine, Aila, *Temporal ensembling for semi-supervised learning*, ICLR 2017; used by ONE's official code over
    80 of 300 epochs.)

    Args:
        progress: Share of the training that is over, in [0, 1].
        length: Share of the training over which the weight rises, in [0, 1]; 0 switches the ramp off (always 1).
    """
    if length <= 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - min(progress / length, 1.0)) ** 2)
