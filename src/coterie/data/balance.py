"""How many training images each class has, said where they are uneven."""

import numpy as np

from coterie.data.base import ImageData
from coterie.data.say import escape, plural

_UNEVEN = 1.5  # so many times the smallest class's images: below it nothing is said
_MUCH = 10


def balance_lines(data: ImageData, balanced: bool) -> list[str]:
    """What is said of the classes' counts before a training: nothing of even classes, a warning of very uneven ones.

    Args:
        data: What is trained on; classes without any image are named when the data are loaded.
        balanced: Whether the recipe weighs classes, or draws each as often as the others.
    """
    counts = np.bincount(data.train.labels, minlength=len(data.classes))
    there = np.flatnonzero(counts)
    least, most = there[counts[there].argmin()], there[counts[there].argmax()]
    ratio = counts[most] / counts[least]
    if ratio < _UNEVEN:
        return []
    smallest, largest = escape(data.classes[least]), escape(data.classes[most])
    lines = [
        f"training images of a class: from {counts[least]:,} ('{smallest}') to {counts[most]:,} ('{largest}'), "
        f"{ratio:.3g} times as many; {plural(len(there), 'class', 'classes')}"
    ]
    if ratio > _MUCH and not balanced:
        lines.append(
            f"warning: '{largest}' has more than {_MUCH} times the images of '{smallest}', and the rare classes may "
            "hardly be learned; try ⟨recipe.class_weights balanced⟩ or ⟨recipe.sampling balanced⟩, and read the recall "
            "of each class"
        )
    return lines
