"""Photographs of solar cells, with a defect or without, in five folds for ``--data folder``.

    pip download --no-deps elpv-dataset
    python benchmarks/elpv.py elpv_dataset-1.0.0.post1-py3-none-any.whl data/elpv
    coterie train --data folder --data.root data/elpv/fold1 --data.channels 3 …

Electroluminescence images of Deitsch et al. (1807.02894): 300x300 grey, of which those are taken whose probability of
a defect is given as 0 or 1 (1,508 and 715), made 128 pixels wide. Each of the five folds has its own fifth in ``val/``
and the others in ``train/``; in ``few1`` to ``few5`` it is the other way round, few images to train on and many to test
on. Folds are stratified by class and by the kind of the cell (mono- or polycrystalline). ``images/``
holds every image once, the folds are hard links: ``python benchmarks/elpv.py data/elpv/images data/elpv`` makes them
again from it, the same ones. Cells of one module may be in several folds; the data do not say which those are.

The package is licensed CC BY-NC-SA 4.0: what is measured on it is published, its images are not.
"""

import argparse
import io
import os
import random
import zipfile
from collections import defaultdict
from pathlib import Path

from PIL import Image

FOLDS, SIZE, SEED = 5, 128, 0
CLASSES = {0.0: "whole", 1.0: "defect"}


def unpack(wheel: Path, images: Path, size: int = SIZE) -> None:
    """Write the images that are taken as ``CLASS/KIND-NAME.png``, made small."""
    with zipfile.ZipFile(wheel) as package:
        for line in package.read("elpv_dataset/data/labels.csv").decode().splitlines():
            name, probability, kind = line.split()
            if float(probability) not in CLASSES:
                continue
            file = images / CLASSES[float(probability)] / f"{kind}-{Path(name).name}"
            file.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(io.BytesIO(package.read(f"elpv_dataset/data/{name}"))) as image:
                image.convert("L").resize((size, size), Image.Resampling.BOX).save(file, optimize=True)


def folds_of(images: Path) -> dict[Path, int]:
    """The fold of each image, from 0: every class and kind is dealt out in an order of its own."""
    strata = defaultdict(list)
    for file in sorted(images.glob("*/*.png")):
        strata[file.parent.name, file.name.split("-")[0]].append(file)
    folds, dealt = {}, 0
    for name, files in sorted(strata.items()):
        random.Random(f"{SEED} {name}").shuffle(files)
        for file in files:
            folds[file] = dealt % FOLDS
            dealt += 1
    return folds


def link(images: Path, out: Path) -> None:
    """Make ``fold1`` to ``fold5`` and ``few1`` to ``few5``, of links to the images."""
    folds = folds_of(images)
    for fold in range(FOLDS):
        for file, own in folds.items():
            for name, splits in (("fold", ("train", "val")), ("few", ("val", "train"))):
                place = out / f"{name}{fold + 1}" / splits[own == fold] / file.parent.name / file.name
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.exists():
                    os.link(file, place)


def main() -> None:
    """Write the images and the folds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the wheel, or the images that an earlier call wrote")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    images = arguments.source
    if not images.is_dir():
        images = arguments.out / "images"
        unpack(arguments.source, images)
    link(images, arguments.out)
    for folder in sorted(arguments.out.glob("f*[0-9]/*/*")):
        print(folder, len(list(folder.iterdir())))


if __name__ == "__main__":
    main()
