"""From the bytes of a stranger's file to the pixels that the network wants, within limits."""

import math
from functools import cache
from io import BytesIO
from typing import IO

import numpy as np
from PIL import Image

from coterie.data.pixels import Array, before_crop, decode_image
from coterie.data.say import escape
from coterie.errors import UserError
from coterie.records import Card
from coterie.serving.refusals import Refused

# Others can be slow, run programs (EPS) or are no photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF")


@cache
def usable_formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that this Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_image(file: IO[bytes], name: str, card: Card, max_pixels: int) -> Array:
    """A file as uint8 (H, W, channels), as ``coterie predict`` makes it.

    Args:
        file: Open for reading, at its beginning.
        name: What it is called in lines about it.
        card: Of the network.
        max_pixels: The most pixels, width times height.

    Raises:
        Refused: It is no image, or too large; the file's head says that, and nothing has been decoded then.
    """
    name = plain_name(name)
    framing = card.get("crop_ratio", 1.0), card.get("interpolation", "bicubic")
    try:
        with Image.open(file, formats=usable_formats()) as image:
            _check_size(image, name, card, max_pixels)
            channels, span = card["channels"], card.get("pixel_range")
            # Said of strangers' images, lines about values out of range would fill the log: none is.
            pixels = decode_image(image, name, card["image_size"], channels, span, None, False, *framing)
            return np.ascontiguousarray(pixels)
    except Refused:
        raise
    except UserError as error:
        raise Refused(400, str(error)) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, "far too many pixels", max_pixels) from error
    except Exception as error:  # a damaged file raises whatever its bytes spell
        raise Refused(400, f"{name}: no image, or a damaged one; send JPEG, PNG, WebP, GIF, BMP or TIFF") from error


def read_one_of_ones_own(card: Card) -> None:
    """Decode an image, so that the first sender does not wait for what Pillow loads only once."""
    file = BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    file.seek(0)
    read_image(file, "image", card, 32 * 32)


def plain_name(name: str | None) -> str:
    """A file's name as it may stand in an answer: no folders of the sender's, no control characters, not too long."""
    return escape((name or "image").replace("\\", "/").rpartition("/")[2][:100]) or "image"


def _check_size(image: Image.Image, name: str, card: Card, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(name, f"{width} x {height} pixels", max_pixels)
    # The shorter side is resized to what is cropped: of a line of pixels a huge image would be made.
    ratio = card.get("crop_ratio", 1.0)
    if ratio < 1:
        # A picture that is turned by its EXIF tag has its sides swapped.
        scale = max(before_crop(card["image_size"], ratio)) / max(1, min(width, height))
        if math.prod(image.size) * scale**2 > max(max_pixels, 4 * math.prod(before_crop(card["image_size"], ratio))):
            raise Refused(
                413, f"{name}: {width} x {height} pixels, too narrow to be resized; send the part that counts"
            )


def _too_large(name: str, what: str, most: int) -> Refused:
    return Refused(413, f"{name}: {what}, more than {most}; send a smaller image")
