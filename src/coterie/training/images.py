"""Data as the network that is trained on them expects them."""

from collections.abc import Mapping
from typing import Any

from coterie.data import ImageData, load
from coterie.networks.zoo import Backbone, BackboneLike


def load_for(network: BackboneLike, options: Mapping[str, Any]) -> ImageData:
    """A data set with the mean, std and image size of a pretrained network, where the options leave them open.

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
    return load(**found)
