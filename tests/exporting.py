"""Runs of small networks of libraries, for the tests of exported files."""

import numpy as np
import torch

import coterie
from coterie.methods import Vanilla
from coterie.recipes import Recipe

# The smallest of each family, on images of 32 pixels, some of them grey.
NETWORKS = {
    "resnet": ("timm/resnet10t", 3),
    "grey resnet": ("timm/resnet10t", 1),
    "grey vit": ("timm/vit_tiny_patch16_224", 1),
    "mobilenet": ("timm/mobilenetv3_small_050", 3),
    "convnext": ("timm/convnext_atto", 3),
}


def run_of(name, channels, out, **options):
    """A network after an epoch on a few digits."""
    data = coterie.data.load("digits", train_samples=40, test_samples=50, channels=channels, image_size=32)
    method = Vanilla(network=name)
    options = {"recipe": Recipe()} | options
    return coterie.train(method, data, epochs=1, batch_size=20, out=out, progress=False, **options)


def run_here(script, path, images, **options):
    """What run_afresh does, in this process, which is quicker by the imports of a fresh one."""
    names = {"path": str(path), "options": {"threads": 1, **options}}
    exec(script, names)
    if isinstance(images, torch.Tensor):
        images = images.tensor_split(3)  # of 16 or 17, and files take any number
    parts = [part.contiguous().numpy() for part in images]
    return torch.from_numpy(np.concatenate([names["run"](part) for part in parts]))
