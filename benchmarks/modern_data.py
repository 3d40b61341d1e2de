"""The glyphs and the clothes of ``benchmarks/modern.py``, small enough to carry to a machine without fonts or network.

    python benchmarks/modern_data.py glyphs --root data --out data/glyphs96      # fonts: docs/guides/glyphs.md
    python benchmarks/modern_data.py other-glyphs --root data --out data/glyphs96-others
    python benchmarks/modern_data.py fashion --root data --out data/fashion10k   # downloads what is not there

``glyphs``: 96 of the 240 characters, evenly spaced, drawn as coterie's own data set is, 16 training and 30 test images
each (1,536 and 2,880), as a folder of PNGs for ``--data folder``. ``other-glyphs``: the same with 96 of the characters
that ``glyphs`` leaves out, to choose by what ``glyphs`` is to test. ``fashion``: the first 1,000 training images of
each class of Fashion-MNIST in the order of its file, and all test images, as idx files for ``--data fashion-mnist``.
"""

import argparse
import gzip
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from coterie.data.sources.fashion_mnist import read_fashion_mnist
from coterie.data.sources.glyphs import RECIPE, draw, fonts

CLASSES, TRAIN, TEST = 96, 16, 30
FASHION = 1000  # of each class


def evenly(characters: Sequence[str]) -> tuple[str, ...]:
    """As many characters as there shall be classes, evenly spaced."""
    return tuple(characters[index * len(characters) // CLASSES] for index in range(CLASSES))


def glyphs(root: Path, out: Path, others: bool = False) -> None:
    """Write ``train/U+XXXX/*.png`` and ``test/U+XXXX/*.png``."""
    classes = evenly(RECIPE.classes)
    if others:
        classes = evenly([character for character in RECIPE.classes if character not in classes])
    recipe = replace(RECIPE, classes=classes, train=TRAIN, test=TEST, checksum=None)
    for split, images in draw(recipe, fonts(root, recipe.families)).items():
        of_each = len(images) // len(classes)
        for number, pixels in enumerate(images.numpy()):
            folder = out / split / f"U+{ord(classes[number // of_each]):04X}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number % of_each:02}.png", optimize=True)
        print(f"{out}: {len(classes)} classes, {len(images)} {split} images")


def fashion(root: Path, out: Path) -> None:
    """Write the four idx files."""
    source = read_fashion_mnist(root)
    out.mkdir(parents=True, exist_ok=True)
    for name, split, of_each in (("train", source.train, FASHION), ("t10k", source.test, None)):
        classes = (np.flatnonzero(split.labels == label)[:of_each] for label in range(len(source.classes)))
        taken = np.sort(np.concatenate(list(classes)))
        write_idx(out / f"{name}-images-idx3-ubyte.gz", split.pixels(taken).numpy()[..., 0])
        write_idx(out / f"{name}-labels-idx1-ubyte.gz", split.labels[taken].astype(np.uint8))
        print(f"{out}: {len(taken)} {name} images")


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write bytes as a gzipped idx file, the same file every time."""
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), mtime=0))


def main() -> None:
    """Write one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("glyphs", "other-glyphs", "fashion"))
    parser.add_argument("--root", type=Path, default=Path("data"), help="where the fonts, or Fashion-MNIST, are")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.data == "fashion":
        fashion(arguments.root, arguments.out)
    else:
        glyphs(arguments.root, arguments.out, others=arguments.data == "other-glyphs")


if __name__ == "__main__":
    main()
