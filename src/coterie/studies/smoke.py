"""Whether a study's cells run at all: one of each table, a step or two on random images."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from coterie.data import ImageData
from coterie.data.base import Resident
from coterie.studies.cell import method_of, recipe_of
from coterie.studies.study import Cell, Scale
from coterie.training import train

# Images of the sizes of the data sets that may not be here: classes, channels, side.
_SHAPES = {
    "digits": (10, 1, 8),
    "fashion_mnist": (10, 1, 28),
    "cifar10": (10, 3, 32),
    "cifar100": (100, 3, 32),
    "svhn": (10, 3, 32),
    "imagenet": (1000, 3, 64),
    "glyphs": (200, 1, 32),
}
_IMAGES, _BATCH = 16, 8
