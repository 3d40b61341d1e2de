"""The items of a data set of PyTorch's or of Hugging Face's: images and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from coterie.data.base import Array
from coterie.data.pixels import decode_image
from coterie.errors import UserError, in_a_line, show_value

_GREY = ("1", "L", "LA", "La")
_RAW = "give uint8 or Pillow's images, without ToTensor, Normalize and the like: coterie augments and normalises"


class Look(NamedTuple):
    """What all items have in common: their labels (N,), sizes (height, width), and whether none has colour."""

    labels: Array
    sizes: set[tuple[int, int]]
    grey: bool


@dataclass(frozen=True)
class Items:
    """A data set's items by index.

    Attributes:
        dataset: What is indexed.
        whose: ``train`` or ``test``, for errors' lines.
        image: The name of the image, where items are mappings.
        label: The name of the label there.
    """

    dataset: Any
    whose: str
    image: str
    label: str

    def look(self) -> Look:
        """Read every item once.

        Raises:
            UserError: It has no length, or an item is no image with a label.
        """
        if isinstance(self.dataset, Mapping):
            raise UserError(
                f"{self.whose} is a mapping of {', '.join(map(str, self.dataset))}; give its parts, as "
                "from_dataset(parts['train'], parts['test'])"
            )
        if not hasattr(self.dataset, "__getitem__") or not hasattr(self.dataset, "__len__"):
            raise UserError(
                f"{self.whose} is {show_value(self.dataset)}; give a data set with a length whose items have an index "
                "(a stream has none)"
            )
        labels, sizes, grey = [], set(), True
        for index in range(len(self.dataset)):
            image, label = self._item(index)
            labels.append(label)
            sizes.add((image.height, image.width))
            grey = grey and image.mode in _GREY
        if not labels:
            raise UserError(f"{self.whose} is empty; give images")
        return Look(indices_of(labels, len(labels), f"labels of {self.whose}"), sizes, grey)

    def pixels(self, name: Path, size: tuple[int, int], channels: int) -> Array:
        """The image of an index, which a split of streamed images calls its name: uint8 (H, W, channels)."""
        index = int(str(name))
        return decode_image(self._item(index)[0], f"{self.whose}[{index}]", size, channels).copy()

    def _item(self, index: int) -> tuple[Image.Image, Any]:
        where = f"{self.whose}[{index}]"
        try:
            item = self.dataset[index]
        except Exception as error:  # a data set raises whatever it meets
            raise UserError(f"{where} cannot be read ({in_a_line(error)}); mend the data set") from error
        if isinstance(item, Mapping):
            for option, key in (("image", self.image), ("label", self.label)):
                if key not in item:
                    raise UserError(
                        f"{where} has no '{key}', but {', '.join(map(str, item))}; say which with `{option}`"
                    )
            return self._picture(item[self.image], where), item[self.label]
        if not isinstance(item, Sequence) or len(item) != 2:
            raise UserError(f"{where} is {show_value(item)}; items are pairs of image and label, or mappings")
        return self._picture(item[0], where), item[1]

    def _picture(self, image: Any, where: str) -> Image.Image:
        if isinstance(image, Image.Image):
            return image
        if isinstance(image, Tensor):
            image = image.detach().cpu().numpy()
        if not isinstance(image, np.ndarray):
            raise UserError(f"{where} has as image {show_value(image)}; {_RAW}")
        if image.dtype != np.uint8:
            raise UserError(f"{where} has an image of {image.dtype}; {_RAW}")
        if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3, 4):
            raise UserError(f"{where} has an image of the shape {list(image.shape)}; put the channels last")
        return image_of(image, where)


def image_of(array: Array, name: str) -> Image.Image:
    """An array, uint8 (H, W) or (H, W, C) of 1, 3 or 4 channels, as Pillow's image; ``name`` stands in errors' lines.

    Raises:
        UserError: It is another kind of array.
    """
    shape = array.shape[:2] if array.ndim == 3 and array.shape[2] == 1 else array.shape
    right = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if array.dtype != np.uint8 or not right or 0 in shape:
        raise UserError(
            f"{name}: an array of {array.dtype}, {'x'.join(map(str, array.shape)) or 'one number'}; give uint8 (H, W) "
            "or (H, W, C) of 1, 3 or 4 channels"
        )
    return Image.fromarray(array.reshape(shape))


def indices_of(labels: Any, count: int, whose: str) -> Array:
    """Labels as class indices (N,), int64.

    Args:
        labels: An array, a tensor or a sequence.
        count: N, the number of images.
        whose: Names them in errors' lines.

    Raises:
        UserError: They are no whole numbers from 0 on, or there are more or fewer than images.
    """
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu().numpy()
    if not isinstance(labels, np.ndarray | Sequence) or isinstance(labels, str):
        raise UserError(f"{whose} is {show_value(labels)}; give class indices, one for each image")
    if len(labels) != count:
        raise UserError(f"{whose}: there are {len(labels)}, and {count} images; give one for each")
    if isinstance(labels, np.ndarray) and labels.ndim != 1:
        raise UserError(f"{whose} have the shape {list(labels.shape)}; give class indices (N,)")
    for index, label in enumerate(labels):
        label = label.item() if isinstance(label, Tensor | np.ndarray | np.generic) and label.ndim == 0 else label
        if not isinstance(label, Integral) or isinstance(label, bool) or label < 0:
            raise UserError(f"{whose}: that of image {index} is {show_value(label)}; write a class index, from 0 on")
    return np.array([int(label) for label in labels], np.int64)


def known_classes(dataset: Any, label: str) -> tuple[str, ...] | None:
    """The classes' names as a data set of torchvision's or Hugging Face's says them; None where it does not."""
    features = getattr(dataset, "features", None)
    names = getattr(features.get(label), "names", None) if isinstance(features, Mapping) else None
    names = getattr(dataset, "classes", None) if names is None else names
    if isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(name, str) for name in names):
        return tuple(names) or None
    return None
