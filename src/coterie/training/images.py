"""Data as the network that is trained on them expects them."""

from collections.abc import Mapping
from typing import Any

from coterie.data import ImageData, load
from coterie.networks.zoo import Backbone, BackboneLike


def load_for(network: BackboneLike, options: Mapping[str, Any]) -> ImageData:
    """A data set prepared as a pretrained network's images were, where the options leave it open.

    Its mean, std and image size; of image files the share that is measured and the interpolation too.

    Args:
        network: What is trained.
        options: Of :func:`coterie.data.load`.

    Raises:
        UserError: The network's or data set's name is unknown, or an option is wrong.
    """
    found = dict(options)
    preprocessing = Backbone.of(network).preprocessing()
    if preprocessing is not None:
        found["mean"] = found.get("mean") or preprocessing.mean
        found["std"] = found.get("std") or preprocessing.std
        found.setdefault("default_image_size", preprocessing.image_size)
        found.setdefault("default_crop_ratio", preprocessing.crop_ratio)
        found.setdefault("default_interpolation", preprocessing.interpolation)
    return load(**found)
