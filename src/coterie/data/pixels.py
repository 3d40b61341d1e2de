"""From an image file to 8 bits a pixel, without a loss that was not asked for.

What black and white are is known for pixels of 8 bits, and of 16 by their type; of 32-bit integers and floats no file
says it, nor whether 16 bits hold a camera's 12. One range for the whole data set, ``pixel_range``, says it; it is never
guessed from one file.
"""

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageCms, ImageOps

from coterie.data.say import escape
from coterie.errors import UserError

Array = np.ndarray[Any, Any]
Range = tuple[float, float]
Interpolation = Literal["bicubic", "bilinear"]

FULL: Range = (0, 65535)
# A 16-bit image without values from here on leaves three quarters of its range unused, as 14 bits or fewer do.
DIM = 16384
EIGHT, SIXTEEN, SIXTEEN_COLOUR, INTEGER, FLOAT = "8-bit", "16-bit", "16-bit colour", "32-bit integer", "float"

_PHOTOMETRIC = 262  # TIFF's tag; 0 where 0 is white


def decode(
    path: Path,
    image_size: tuple[int, int] | None,
    channels: int,
    pixel_range: Range | None = None,
    say: Callable[[str], None] | None = None,
    dim: bool = True,
    crop_ratio: float = 1.0,
    interpolation: Interpolation = "bicubic",
    draft: bool = False,
) -> Array:
    """An image file as uint8 (H, W, channels): turned upright, on white, its shorter side resized, centre-cropped.

    Args:
        path: Any format that Pillow reads; grey, palette, 16 bits and transparency included.
        image_size: (height, width); None for its own.
        channels: 1 for grey, 3 for colour.
        pixel_range: The values that are black and white, of pixels of more than 8 bits; None where their type says
            them, which 16 bits do.
        say: Is told where values lie outside of ``pixel_range``.
        dim: Whether 16-bit pixels without a ``pixel_range`` may leave three quarters of their range unused; False where
            a network was trained without such images.
        crop_ratio: The share of the resized image's shorter side that is taken, in (0, 1]. Below 1, images are resized
            and cropped to the pixel as torchvision's ``Resize`` and ``CenterCrop`` do it.
        interpolation: ``bicubic`` or ``bilinear``, antialiased.
        draft: Whether a JPEG that is far larger than ``image_size`` is decoded at a half, quarter or eighth of its
            size, no smaller than that: faster, and nearly the same pixels.

    Raises:
        UserError: It does not decode, or what its pixels mean is unknown.
    """
    with opened(path) as file:
        if draft and image_size is not None:
            file.draft(None, (max(image_size),) * 2)
        return decode_image(file, path, image_size, channels, pixel_range, say, dim, crop_ratio, interpolation)


def decode_image(
    image: Image.Image,
    name: Path | str,
    image_size: tuple[int, int] | None,
    channels: int,
    pixel_range: Range | None = None,
    say: Callable[[str], None] | None = None,
    dim: bool = True,
    crop_ratio: float = 1.0,
    interpolation: Interpolation = "bicubic",
) -> Array:
    """An image of Pillow's as :func:`decode` makes it of its file; ``name`` stands for the file in errors' lines.

    Raises:
        UserError: What its pixels mean is unknown.
    """
    kind = pixel_type(image)
    image = ImageOps.exif_transpose(image)
    if kind.name != EIGHT:
        image = _shallow(image, kind, name, pixel_range, say, dim)
    image = _plain(image, "L" if channels == 1 else "RGB")
    if image_size is not None and (crop_ratio < 1 or (image.height, image.width) != tuple(image_size)):
        image = _framed(image, image_size, crop_ratio, Image.Resampling[interpolation.upper()])
    return np.asarray(image).reshape(image.height, image.width, channels)


def before_crop(size: tuple[int, int], crop_ratio: float) -> tuple[int, int]:
    """The size that images have before the middle ``size`` of them is cropped: 256 for 224 and 0.875.

    Rounded down, as timm does it; torchvision names this size, which its ratio gives back.
    """
    height, width = (floor(side / crop_ratio + 1e-6) for side in size)
    return height, width


def _framed(
    image: Image.Image, size: tuple[int, int], crop_ratio: float, interpolation: Image.Resampling
) -> Image.Image:
    """The middle of an image, resized."""
    height, width = size
    if crop_ratio == 1:  # at once: the part that is taken need not begin at a whole pixel
        return ImageOps.fit(image, (width, height), interpolation)
    tall, wide = before_crop(size, crop_ratio)
    if image.width * tall <= image.height * wide:
        tall = int(wide * image.height / image.width)
    else:
        wide = int(tall * image.width / image.height)
    left, top = round((wide - width) / 2), round((tall - height) / 2)
    return image.resize((wide, tall), interpolation).crop((left, top, left + width, top + height))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file; whatever goes wrong with it in the block is one line.

    Raises:
        UserError: There is no such file, or it is damaged.
    """
    try:
        # Opening a pipe would wait for a writer, for ever where there is none.
        if not stat.S_ISREG(path.stat().st_mode):
            what = "a folder; name the images in it" if path.is_dir() else "a pipe or device; name an image file"
            raise UserError(f"{escape(path)}: {what}")
        with Image.open(path) as file:
            yield file
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{escape(path)}: no such file") from error
    except PermissionError as error:
        raise UserError(f"{escape(path)}: cannot be read ({error.strerror}); mend its permissions") from error
    except Exception as error:  # a damaged file raises whatever its bytes spell
        # Pillow names the file again in what it says; bytes of a damaged one may steer a terminal.
        reason = escape(" ".join(str(error).replace(repr(str(path)), "it").split())[:200]) or type(error).__name__
        raise UserError(f"{escape(path)}: cannot be decoded as an image ({reason}); mend or remove it") from error


@dataclass(frozen=True)
class PixelType:
    """What the pixels of a file are.

    Attributes:
        name: ``8-bit``, ``16-bit``, ``16-bit colour``, ``32-bit integer`` or ``float``.
        twelve: Whether the file itself says that 12 bits are used.
        inverted: Whether 0 is white and Pillow leaves it at that, as in TIFFs of more than 8 bits.
    """

    name: str
    twelve: bool = False
    inverted: bool = False


def pixel_type(image: Image.Image) -> PixelType:
    """What the pixels are of an image that was opened and not loaded."""
    modes = [_raw_mode(tile[3]) for tile in getattr(image, "tile", [])]
    if image.mode == "F":
        name = FLOAT
    elif image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        name = SIXTEEN  # Pillow opens PGM's 16 bits, and in old versions PNG's, as 32: they are scaled to 65535
    elif image.mode == "I":
        name = INTEGER
    else:
        return PixelType(SIXTEEN_COLOUR if any(";16" in mode for mode in modes) else EIGHT)
    tags = getattr(image, "tag_v2", None)
    return PixelType(name, "I;12" in modes, tags is not None and tags.get(_PHOTOMETRIC) == 0)


def extent(path: Path) -> tuple[str, float, float]:
    """What an image's pixels are, and their lowest and highest value.

    Raises:
        UserError: It does not decode, or holds NaN or infinity.
    """
    with opened(path) as file:
        kind = pixel_type(file)
        values = _values(file, kind, path)
    return kind.name, float(values.min()), float(values.max())


def unknown_range(where: Path | str, kind: str, low: float, high: float, trained: bool = False) -> UserError:
    """The refusal of pixels whose meaning nobody said.

    Args:
        where: The file, or files.
        kind: Of pixels.
        low: Their lowest value.
        high: Their highest.
        trained: Whether a network was trained already, on images of 8 bits.
    """
    sixteen = kind in (SIXTEEN, SIXTEEN_COLOUR)
    what = f"16-bit pixels that reach {high:g} of 65535" if sixteen else f"{kind} pixels, from {low:g} to {high:g}"
    if trained:
        mend = "the network was trained on images of 8 bits; convert this one to 8 bits"
    elif sixteen:
        mend = f"if they hold fewer bits, say {_option(0, _bits(high))}; if they are dark, {_option(*FULL)}"
    else:
        mend = f"no file says which values are black and white; say it, for example {_option(*_plausible(low, high))}"
    return UserError(f"{escape(where)}: {what}; {mend}")


def _bits(high: float) -> int:
    """The largest value of so few bits: 4095 for 12."""
    return max(2 ** int(high).bit_length() - 1, 255)


def _plausible(low: float, high: float) -> Range:
    """A range that holds these values, to show how one is written."""
    for top in (1, 255, 65535):
        if low >= 0 and top / 4 < high <= top:
            return 0, top
    return (floor(low), ceil(high)) if high - low > 10 else (low, high)


def _option(low: float, high: float) -> str:
    return f"⟨data.pixel_range [{low:g}, {high:g}]⟩"


def _raw_mode(arguments: Any) -> str:
    return str(arguments if isinstance(arguments, str) or not arguments else arguments[0])


def _values(image: Image.Image, kind: PixelType, path: Path | str) -> Array:
    if kind.name == SIXTEEN_COLOUR:
        return np.asarray(image.convert("RGB")).astype(np.float64) * 257  # of the high byte, all that Pillow keeps
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{escape(path)}: holds pixels that are NaN or infinite; mend or remove it")
    return values * (65535 / 4095) if kind.twelve else values  # as Pillow does with 12 bits of PGM and JPEG 2000


def _shallow(
    image: Image.Image,
    kind: PixelType,
    path: Path | str,
    pixel_range: Range | None,
    say: Callable[[str], None] | None,
    dim: bool,
) -> Image.Image:
    """An image of more than 8 bits as one of 8."""
    if kind.name == SIXTEEN_COLOUR:
        if pixel_range not in (None, FULL):
            raise UserError(
                f"{escape(path)}: colour of 16 bits, of which 8 can be read here: ⟨data.pixel_range⟩ does not reach "
                "it; convert it to 8 bits"
            )
        if pixel_range is None and not dim:
            values = _values(image, kind, path)
            if values.max() < DIM:
                raise unknown_range(path, kind.name, float(values.min()), float(values.max()), trained=True)
        return image
    values = _values(image, kind, path)
    lowest, highest = float(values.min()), float(values.max())
    if pixel_range is None and (kind.name != SIXTEEN or (not dim and highest < DIM and not kind.twelve)):
        raise unknown_range(path, kind.name, lowest, highest, trained=not dim)
    low, high = pixel_range or FULL
    if say is not None and (lowest < low or highest > high):
        say(f"{escape(path)}: values from {lowest:g} to {highest:g}, cut to pixel_range, {low:g} to {high:g}")
    clear = image.info.get("transparency")
    scaled = (values - low) * (255 / (high - low))
    if kind.inverted:
        scaled = 255 - scaled
    if isinstance(clear, int):
        scaled[values == clear] = 255  # on white, as all transparency
    return Image.fromarray(np.clip(scaled, 0, 255).round().astype(np.uint8))


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """8 bits a channel, transparency on white, in a mode."""
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    if image.mode == "LAB":  # which Pillow converts by colour profiles alone
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        lab = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert lab is not None  # it is not converted in place
        image = lab
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
