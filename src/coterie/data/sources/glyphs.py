"""Glyphs: characters in the free typefaces of Debian's font packages, 32x32 grey, tested on typefaces never trained on.

A class is one character, told by its shape alone: the ink of each image is scaled to a side of 12 to 22 pixels, so that
a capital and a small letter of the same shape would be one class, and only one of them is here. It is also turned,
slanted, moved and dimmed a little, and there is noise. Which face draws an image, and how it is varied, are functions
of the recipe's seed, the split and the character. Every class has equally many images, each of another family as long
as there are families left that have the character.

What looks the same in many faces when its size is not seen is one class: A stands for A, Alpha and Cyrillic A, and
there is no o beside O. Cyrillic is in capitals, as its italic small letters look like Latin ones. The families of
a split share no design with those of the other.

``glyphs_recipe.json`` holds the characters, the families with their packages and checksums, and how many images there
are. How it is made, its licences and how hard it is: docs/guides/glyphs.md.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
import torch
from PIL import Image, ImageFont, features
from safetensors.torch import save_file
from torch import Tensor

from coterie.data.base import Array, DataEntry, Resident, Shape, Source
from coterie.errors import UserError
from coterie.extras import need
from coterie.files import read_tensors, replacing

SIZE = 32
# Where Debian's font packages put their files.
_DEBIAN = Path("/usr/share/fonts")
_EM = 128  # pixels in which a character is drawn before it is made small
_SIDE = (12.0, 22.0)  # pixels
_TURN = 12.0  # degrees
_SLANT = 0.15  # pixels to the side a pixel up
_MOVE = 2  # pixels
_INK = (0.6, 1.0)  # of 255
_NOISE = 0.05  # standard deviation, of 255


@dataclass(frozen=True)
class Family:
    """A typeface: all its faces are on one side of the split.

    Attributes:
        name: Of the family.
        package: Debian's package that has it.
        split: The side that it is on.
        folder: Of its files, below ``/usr/share/fonts``.
        faces: (file, SHA-256 of the file) of each face.
    """

    name: str
    package: str
    split: Literal["train", "test"]
    folder: str
    faces: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Recipe:
    """A data set of glyphs.

    Attributes:
        classes: One character each.
        families: What they are drawn in.
        train: Images of each class to train on.
        test: Images of each class to test on.
        seed: Of the choice of faces and of how each image is scaled, turned and moved.
        checksum: SHA-256 of what is drawn; None where nobody has drawn it yet.
        drawn_with: The versions that drew it so.
    """

    classes: tuple[str, ...]
    families: tuple[Family, ...]
    train: int
    test: int
    seed: int = 0
    checksum: str | None = None
    drawn_with: str = ""


def read_recipe() -> Recipe:
    """The recipe of the data set."""
    content = json.loads((files("coterie.data.sources") / "glyphs_recipe.json").read_text("utf-8"))
    families = (Family(**{**family, "faces": tuple(family["faces"].items())}) for family in content["families"])
    return Recipe(**{**content, "classes": tuple("".join(content["classes"])), "families": tuple(families)})


RECIPE = read_recipe()


def read_glyphs(root: Path) -> Source:
    """The glyphs of :data:`RECIPE`, drawn once and kept in ``root/glyphs``.

    Args:
        root: Where they are kept. Debian's packages may be unpacked there too; else the installed fonts are read.

    Raises:
        UserError: Font packages are missing, or a font is another version's.
    """
    return build(root, RECIPE)


def build(root: Path, recipe: Recipe) -> Source:
    """The glyphs of any recipe, as :func:`read_glyphs`.

    Warns where they are not to the bit those of the recipe's checksum, as another FreeType may draw them.
    """
    path = root / "glyphs" / "glyphs.safetensors"
    images, versions = _kept(path, recipe) or _drawn(path, recipe, fonts(root, recipe.families))
    if recipe.checksum not in (None, found := checksum(images)):
        warnings.warn(
            f"{path}: drawn with {versions}, its images differ from those drawn with {recipe.drawn_with} (checksum "
            f"{found[:12]}, not {str(recipe.checksum)[:12]}); errors may differ slightly from the published ones",
            stacklevel=2,
        )
    train, test = (
        Resident(images[split].unsqueeze(3), np.repeat(np.arange(len(recipe.classes)), count).astype(np.int64))
        for split, count in (("train", recipe.train), ("test", recipe.test))
    )
    pixels = images["train"].double() / 255
    mean, std = round(float(pixels.mean()), 4), round(float(pixels.std()), 4)
    return Source(recipe.classes, train, test, (mean,), (std,), image_size=(SIZE, SIZE), channels=1)


# Fonts ---------------------------------------------------------------------------------------------------------------


def fonts(root: Path, families: Iterable[Family]) -> dict[str, list[Path]]:
    """The files of each family's faces, by the family's name, each checked.

    Raises:
        UserError: As :func:`read_glyphs`.
    """
    found: dict[str, list[Path]] = {}
    missing: set[str] = set()
    for family in families:
        for name, checksum in family.faces:
            place = Path(family.folder) / name
            places = [folder / place for folder in (root / "usr/share/fonts", root, _DEBIAN)]
            path = next((path for path in places if path.is_file()), None)
            if path is None:
                missing.add(family.package)
                continue
            found.setdefault(family.name, []).append(path)
            if hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
                raise UserError(
                    f"{path}: another version than that of Debian 12's package {family.package}; unpack that package's "
                    f"files into {root} (docs/guides/glyphs.md says how)"
                )
    if missing:
        raise UserError(
            f"the fonts of the data 'glyphs' are missing; apt-get install {' '.join(sorted(missing))}, or unpack these "
            f"packages into {root} (docs/guides/glyphs.md says how)"
        )
    return found


class Face:
    """A font file, and which characters it has.

    Args:
        path: The file.

    Raises:
        UserError: It is no font.
    """

    def __init__(self, path: Path) -> None:
        library = need("fontTools.ttLib", "data")
        try:
            with library.TTFont(path, lazy=True) as file:
                self.characters = set(file.getBestCmap() or ())
            self.font = ImageFont.truetype(path, _EM, layout_engine=ImageFont.Layout.BASIC)
        except (OSError, library.TTLibError) as error:
            raise UserError(f"{path}: cannot be read as a font ({error}); install its package again") from error

    def has(self, character: str) -> bool:
        """Whether it has the character, and not a blank in its place."""
        return ord(character) in self.characters and self.font.getmask(character).getbbox() is not None

    def ink(self, character: str) -> Image.Image:
        """The character drawn large, white on black, without any margin."""
        mask = self.font.getmask(character, mode="L")
        image = Image.frombytes("L", mask.size, bytes(mask))
        return image.crop(image.getbbox())


# Drawing -------------------------------------------------------------------------------------------------------------


def draw(recipe: Recipe, paths: dict[str, list[Path]]) -> dict[str, Tensor]:
    """The images of each split: uint8 (classes * images of each, 32, 32), class after class."""
    faces = {name: [Face(path) for path in each] for name, each in paths.items()}
    images = {}
    for side, (split, count) in enumerate((("train", recipe.train), ("test", recipe.test))):
        families = [faces[family.name] for family in recipe.families if family.split == split]
        drawn = []
        for character in recipe.classes:
            # By character: a class more or less changes no other's images.
            generator = np.random.default_rng((recipe.seed, side, ord(character)))
            drawn += [vary(face.ink(character), generator) for face in _choose(families, character, count, generator)]
        images[split] = torch.from_numpy(np.stack(drawn))
    return images


def _choose(families: list[list[Face]], character: str, count: int, generator: np.random.Generator) -> list[Face]:
    """``count`` faces that have a character, each of another family until all have had their turn."""
    able = [having for faces in families if (having := [face for face in faces if face.has(character)])]
    if not able:
        raise ValueError(f"no family of the split has {character!r}")
    order = generator.permutation(len(able))
    turns = [able[order[turn % len(able)]] for turn in range(count)]
    return [faces[generator.integers(len(faces))] for faces in turns]


def vary(ink: Image.Image, generator: np.random.Generator) -> Array:
    """A character of some size and tint, turned, slanted and moved a little, with noise: uint8 (32, 32)."""
    side, tint = generator.uniform(*_SIDE), generator.uniform(*_INK)
    angle, slant = np.radians(generator.uniform(-_TURN, _TURN)), generator.uniform(-_SLANT, _SLANT)
    right, down = generator.uniform(-_MOVE, _MOVE, 2)
    # From the image's pixels back to the ink's, both from their middles; drawn four times as large, then averaged.
    zoom, large = max(ink.size) / (4 * side), 4 * SIZE
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    rows = np.array([[cos, sin + slant * cos], [-sin, cos - slant * sin]])
    start = np.array(ink.size) / 2 - rows @ (large / 2 + 4 * np.array([right, down]))
    matrix = (rows[0, 0], rows[0, 1], start[0], rows[1, 0], rows[1, 1], start[1])
    image = ink.transform((large, large), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    pixels = np.asarray(image.reduce(4)) * tint + 255 * _NOISE * generator.standard_normal((SIZE, SIZE))
    return pixels.round().clip(0, 255).astype(np.uint8)


# What is kept --------------------------------------------------------------------------------------------------------


def checksum(images: dict[str, Tensor]) -> str:
    """SHA-256 of the training images' bytes, then the test images'."""
    return hashlib.sha256(images["train"].numpy().tobytes() + images["test"].numpy().tobytes()).hexdigest()


def _identity(recipe: Recipe) -> str:
    """What a kept file must have been drawn from."""
    return hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()


def _kept(path: Path, recipe: Recipe) -> tuple[dict[str, Tensor], str] | None:
    """The images drawn earlier, and with what; None where there are none, of another recipe, or damaged."""
    try:
        images, text = read_tensors(path, "it is drawn again")
        note = json.loads(text or "{}")
        whole = note["recipe"] == _identity(recipe) and note["checksum"] == checksum(images)
        return (images, note["drawn_with"]) if whole else None
    except (UserError, ValueError, KeyError, TypeError):
        return None


def _drawn(path: Path, recipe: Recipe, paths: dict[str, list[Path]]) -> tuple[dict[str, Tensor], str]:
    """The images drawn now, and with what, kept for the next time."""
    images = draw(recipe, paths)
    versions = f"Pillow {PIL.__version__}, FreeType {features.version('freetype2')}"
    note = {"recipe": _identity(recipe), "checksum": checksum(images), "drawn_with": versions}
    with replacing(path) as temporary:
        save_file(images, temporary, metadata={"coterie": json.dumps(note)})
    return images, versions


GLYPHS = DataEntry(
    f"{len(RECIPE.classes)} characters in typefaces never trained on, {SIZE}x{SIZE} grey, "
    f"{len(RECIPE.classes) * RECIPE.train:,} + {len(RECIPE.classes) * RECIPE.test:,}",
    read_glyphs,
    augment="crop",
    shape=Shape(len(RECIPE.classes), 1, SIZE),
)
