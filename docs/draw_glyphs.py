"""Draw a sample of the glyphs, and measure how near families and classes are to each other.

python docs/draw_glyphs.py              # writes docs/guides/glyphs.png
python docs/draw_glyphs.py --check      # prints which families and which classes look alike
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from coterie.data.base import Array
from coterie.data.sources import glyphs
from coterie.data.sources.glyphs import RECIPE
from coterie.files import replacing

PICTURE = Path(__file__).parent / "guides" / "glyphs.png"
SHOWN = "ageéěß5δξЖЩ€"
COLUMNS = 9
SIDE = 24


def sample(images: dict[str, Array]) -> Image.Image:
    """A row for each shown class: training images, a white line, test images."""
    line = np.full((glyphs.SIZE, 6), 255, np.uint8)
    rows = []
    for character in SHOWN:
        place = RECIPE.classes.index(character)
        train = images["train"][place * RECIPE.train :][:COLUMNS]
        test = images["test"][place * RECIPE.test :][:COLUMNS]
        rows.append(np.concatenate([*train, line, *test], axis=1))
    return Image.fromarray(np.concatenate(rows))


def fitted(face: glyphs.Face) -> Array:
    """Each class's ink in one size, in the middle: (classes, pixels); not a number where the face lacks it."""
    rows = np.full((len(RECIPE.classes), SIDE * SIDE), np.nan, np.float32)
    for index, character in enumerate(RECIPE.classes):
        if face.has(character):
            ink = face.ink(character)
            width, height = (max(1, round(length * SIDE / max(ink.size))) for length in ink.size)
            image = Image.new("L", (SIDE, SIDE))
            image.paste(
                ink.resize((width, height), Image.Resampling.LANCZOS), ((SIDE - width) // 2, (SIDE - height) // 2)
            )
            rows[index] = np.asarray(image, np.float32).ravel() / 255
    return rows


def distances(one: Array, other: Array) -> Array:
    """Squared difference over the sum of squares, of the last axis: 0 for the same, 1 for no ink in common."""
    return ((one - other) ** 2).sum(-1) / ((one**2).sum(-1) + (other**2).sum(-1))


def check() -> None:
    """Print the nearest family of each family, across the split too, and the classes that look alike."""
    paths = glyphs.fonts(Path("data"), RECIPE.families)
    faces = {name: [fitted(glyphs.Face(path)) for path in each] for name, each in paths.items()}
    split = {family.name: family.split for family in RECIPE.families}
    near = {
        (one, other): min(float(np.nanmedian(distances(a, b))) for a in faces[one] for b in faces[other])
        for one in faces for other in faces if one != other
    }  # fmt: skip
    print(
        "Nearest families: the median over classes of the distance between two faces, the nearest two of the families"
    )
    for name in faces:
        for side in ("train", "test"):
            distance, other = min(
                (near[name, other], other) for other in faces if other != name and split[other] == side
            )
            print(f"{split[name]:5} {name:22} nearest {side:5} family: {other:22} {distance:.3f}")
    print("Classes within a distance of 0.02, and in how many faces")
    every = [rows for each in faces.values() for rows in each]
    alike = sum(np.nan_to_num(distances(rows[:, None], rows[None]), nan=1) < 0.02 for rows in every)
    pairs = sorted(((int(alike[i, j]), i, j) for i in range(len(alike)) for j in range(i)), reverse=True)
    for count, one, other in pairs[:20]:
        print(f"{RECIPE.classes[other]} {RECIPE.classes[one]}: {count} of {len(every)} faces")
    print("Fewest families that have a class (train, test)")
    for side in ("train", "test"):
        have = [
            sum(any(not np.isnan(rows[index, 0]) for rows in faces[name]) for name in faces if split[name] == side)
            for index in range(len(RECIPE.classes))
        ]
        counts = {n: "".join(c for c, m in zip(RECIPE.classes, have, strict=True) if m == n) for n in sorted(set(have))}
        print(side, counts)


def main() -> None:
    """The picture, or the check."""
    if "--check" in sys.argv:
        check()
        return
    images = glyphs.draw(RECIPE, glyphs.fonts(Path("data"), RECIPE.families))
    with replacing(PICTURE) as temporary:
        sample({split: each.numpy() for split, each in images.items()}).save(temporary)


if __name__ == "__main__":
    main()
