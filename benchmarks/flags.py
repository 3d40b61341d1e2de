"""National flags in three drawings to train on and in a fourth to be tested on: 32x32 colour, for ``--data folder``.

    for package in flag-icons@7.5.0 circle-flags@2.8.3 country-flag-icons@1.6.20 flagpack-core@2.1.0; do
        npm pack $package
    done
    pip install resvg-py
    python benchmarks/flags.py . data/flags     # the folder of the .tgz files; deterministic
    coterie train --data folder --data.root data/flags …

A class is a country. Trained on: ``flag-icons`` (detailed), ``circle-flags`` (simplified, round) and
``country-flag-icons`` (simplified), three poses of each drawing; tested on ten poses of ``flagpack-core`` (simplified,
its own proportions and colours). A pose scales the flag to a width of 22 to 30 pixels, turns it by up to 10 degrees,
moves it by up to 2 pixels, dims it to 75 % or more, on a background of a random even colour. Poses are functions of
country, drawing and number. Countries are those of two letters that all four packages have; where two of them look
alike in any one of the drawings (Chad and Romania, territories under another's flag), only the first is taken. They are
thinned to ``CLASSES``.

All four packages are MIT-licensed; the images are not redistributed here. Mirroring turns some flags into others: train
with ``--data.augment crop``.
"""

import argparse
import io
import re
import tarfile
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, SIZE, SEED = 168, 32, 0
LARGE = 256  # pixels of the width in which a drawing is rendered
ALIKE = 12.0  # largest mean difference, of 255, of two flags that nobody could tell apart
# Package: where its drawings are, the split, poses of each drawing.
DRAWINGS = {
    "flag-icons": ("package/flags/4x3", "train", 3),
    "circle-flags": ("package/flags", "train", 3),
    "country-flag-icons": ("package/3x2", "train", 3),
    "flagpack-core": ("package/svg/l", "test", 10),
}


def read(folder: Path) -> dict[str, dict[str, Image.Image]]:
    """The drawings of each package, rendered large, by the country's two letters.

    Raises:
        FileNotFoundError: There is no, or more than one, ``.tgz`` file of a package.
    """
    from resvg_py import svg_to_bytes

    texts: dict[str, dict[str, str]] = {}
    for package, (place, _, _) in DRAWINGS.items():
        files = list(folder.glob(f"{package}-[0-9]*.tgz"))
        if len(files) != 1:
            raise FileNotFoundError(f"{folder}: one file {package}-VERSION.tgz is needed; `npm pack {package}` there")
        with tarfile.open(files[0]) as archive:
            for member in archive:
                found = re.fullmatch(rf"{place}/([A-Za-z]{{2}})\.svg", member.name)
                if found:
                    content = archive.extractfile(member)
                    assert content is not None
                    texts.setdefault(package, {})[found[1].lower()] = content.read().decode()
    shared = sorted(set.intersection(*(set(of) for of in texts.values())))
    return {
        package: {
            country: Image.open(io.BytesIO(bytes(svg_to_bytes(svg_string=of[country], width=LARGE)))).convert("RGBA")
            for country in shared
        }
        for package, of in texts.items()
    }


def told_apart(drawings: dict[str, dict[str, Image.Image]]) -> list[str]:
    """Countries without those that look like an earlier one in some drawing."""
    small = {
        country: [
            np.asarray(Image.alpha_composite(Image.new("RGBA", of[country].size, "grey"), of[country]).resize((24, 24)))
            for of in drawings.values()
        ]
        for country in next(iter(drawings.values()))
    }
    pixels = {country: np.stack(of)[..., :3].astype(float) for country, of in small.items()}
    taken = sorted(pixels)
    for first, second in combinations(sorted(pixels), 2):
        alike = np.abs(pixels[first] - pixels[second]).mean((1, 2, 3)).min() < ALIKE
        if alike and first in taken and second in taken:
            taken.remove(second)
    return taken


def pose(drawing: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A drawing of some size, angle, place and light on an even background, SIZE x SIZE."""
    width, angle = generator.uniform(22, 30), np.radians(generator.uniform(-10, 10))
    right, down = generator.uniform(-2, 2, 2)
    light, background = generator.uniform(0.75, 1), generator.integers(0, 256, 3)
    # From the image's pixels back to the drawing's, both from their middles; four times as large, then averaged.
    zoom, large = drawing.width / (4 * width), 4 * SIZE
    rows = zoom * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    start = np.array(drawing.size) / 2 - rows @ (large / 2 + 4 * np.array([right, down]))
    matrix = (*rows[0], start[0], *rows[1], start[1])
    turned = drawing.transform((large, large), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    whole = Image.alpha_composite(Image.new("RGBA", turned.size, (*background.tolist(), 255)), turned).convert("RGB")
    return Image.fromarray((np.asarray(whole.reduce(4)) * light).round().astype(np.uint8))


def main() -> None:
    """Write ``train/COUNTRY/*.png`` and ``test/COUNTRY/*.png``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="the folder of the four .tgz files")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    drawings = read(arguments.packages)
    countries = told_apart(drawings)
    print(f"{len(next(iter(drawings.values())))} countries in all drawings, {len(countries)} of them told apart")
    chosen = [countries[index * len(countries) // CLASSES] for index in range(min(CLASSES, len(countries)))]
    counts = {"train": 0, "test": 0}
    for number, (package, (_, split, poses)) in enumerate(DRAWINGS.items()):
        for country in chosen:
            generator = np.random.default_rng((SEED, number, *country.encode()))
            folder = arguments.out / split / country
            folder.mkdir(parents=True, exist_ok=True)
            for turn in range(poses):
                pose(drawings[package][country], generator).save(folder / f"{package}-{turn}.png", optimize=True)
                counts[split] += 1
    print(f"{len(chosen)} classes, {counts['train']} training and {counts['test']} test images in {arguments.out}")


if __name__ == "__main__":
    main()
