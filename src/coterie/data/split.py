"""Which images of a folder are trained on, chosen by and measured, by their names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from coterie.bounds import NonNegativeInt

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Split:
    """The images of each part, by names relative to the folder, in their order.

    Attributes:
        classes: Names of the classes, by index.
        train: What is learned from.
        validation: What chooses the epoch; empty without one.
        test: What is measured on.
        class_folder: Which of a name's parts is its class: 0 in ``cat/1.png``, 1 in ``train/cat/1.png``; None where
            a file of labels says it.
        others: How many images were there and in no part.
        digest: Of the first test files' content, by which the folder is known again elsewhere.
    """

    classes: tuple[str, ...]
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    class_folder: Literal[0, 1] | None
    others: NonNegativeInt
    digest: str

    def parts(self) -> dict[str, tuple[str, ...]]:
        """The names by part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def labels(self, names: Sequence[str], label_of: Mapping[str, int] | None = None) -> Array:
        """The classes (N,) of images by their names, int64: as ``label_of`` says, or as their folders are called."""
        if label_of is not None:
            return np.array([label_of[name] for name in names], np.int64)
        place = {name: index for index, name in enumerate(self.classes)}
        assert self.class_folder is not None
        return np.array([place[name.split("/")[self.class_folder]] for name in names], np.int64)

    def known(self, name: str) -> bool:
        """Whether the image lies in the folder of a class, where folders are classes."""
        if self.class_folder is None:
            return True
        folders = name.split("/")[:-1]
        if len(folders) <= self.class_folder or ".." in folders:
            return False
        return folders[self.class_folder] in self.classes
