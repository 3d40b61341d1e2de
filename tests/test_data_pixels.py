"""Pixels of any type mean what they mean, or are refused by name."""

import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

import coterie
from coterie import UserError
from coterie.data import decode, load
from coterie.methods import Vanilla
from toys import go

RAMP = np.arange(12).reshape(3, 4) / 11


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def write_folder(root, dtype, low, high, suffix="tif", count=6):
    """Two classes, dark and bright, of values from ``low`` to ``high``."""
    for label, name in enumerate(("bright", "dark")):
        for index in range(count):
            ramp = (RAMP + index) / count * 0.45 + (0.0 if label else 0.55)
            ramp = np.kron(ramp, np.ones((4, 3)))
            write(root / name / f"{index}.{suffix}", (low + (high - low) * ramp).astype(dtype))
    write(root / "bright" / "top.tif", np.full((12, 12), high, dtype))
    write(root / "dark" / "bottom.tif", np.full((12, 12), low, dtype))


@pytest.mark.parametrize(
    ("dtype", "low", "high", "kind"),
    [
        (np.float32, 0, 1, "float pixels, from 0 to 1"),
        (np.float32, 0, 65535, "float pixels, from 0 to 65535"),
        (np.int32, -1000, 3000, "32-bit integer pixels, from -1000 to 3000"),
        (np.int32, 0, 255, "32-bit integer pixels, from 0 to 255"),
        (np.uint16, 0, 4095, "16-bit pixels that reach 4095 of 65535"),
    ],
)
def test_a_range_that_no_file_says_is_asked_for_and_then_used(tmp_path, dtype, low, high, kind):
    write_folder(tmp_path, dtype, low, high)
    with pytest.raises(UserError, match=rf"14 images .*{kind}.*pixel_range=\[{low}, {high}\]"):
        load("folder", root=tmp_path)
    data = load("folder", root=tmp_path, pixel_range=(low, high))
    assert data.pixel_range == (low, high)
    pixels = np.concatenate([data.train.data.numpy(), data.test.data.numpy()])
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(np.unique(pixels)) > 100  # not 17 levels of 12 bits, nor 13 of integers
    again = load(**data.options)
    assert np.array_equal(again.train.data, data.train.data)


def test_sixteen_bits_that_are_used_need_no_word(tmp_path):
    write_folder(tmp_path, np.uint16, 0, 65535, "png")
    data = load("folder", root=tmp_path)
    assert data.pixel_range == (0, 65535)
    assert (data.channels, "pixel_range" in data.options) == (1, False)
    assert load("folder", root=tmp_path, pixel_range=(0, 65535)).pixel_range == (0, 65535)


def test_values_outside_of_the_range_are_counted(tmp_path, caplog):
    write_folder(tmp_path, np.int32, -1000, 3000)
    with caplog.at_level(logging.WARNING, "coterie"):
        load("folder", root=tmp_path, pixel_range=(-1000, 2950))
    assert "2 images have values outside of pixel_range, -1000 to 2950" in caplog.text
    assert "bright/top.tif" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused_by_name(tmp_path, value):
    write_folder(tmp_path, np.float32, 0, 1)
    write(tmp_path / "dark" / "odd.tif", np.full((12, 12), value, np.float32))
    with pytest.raises(UserError, match=r"odd\.tif: holds pixels that are NaN or infinite"):
        load("folder", root=tmp_path, pixel_range=(0, 1))
    with pytest.raises(UserError, match=r"odd\.tif: holds pixels that are NaN or infinite"):
        decode(tmp_path / "dark" / "odd.tif", None, 1, (0, 1))


def test_deep_images_among_shallow_ones_are_held_to_the_same(tmp_path):
    write_folder(tmp_path, np.uint8, 0, 255, "png")
    write(tmp_path / "dark" / "deep.tif", np.full((12, 12), 0.5, np.float32))
    with pytest.raises(UserError, match=r"1 image \(dark/deep\.tif\): float pixels"):
        load("folder", root=tmp_path)
    assert load("folder", root=tmp_path, pixel_range=(0, 1)).train.data.max() == 255


def test_a_single_file_is_never_guessed(tmp_path):
    for name, array in (("f.tif", RAMP.astype(np.float32)), ("i.tif", (RAMP * 255).astype(np.int32))):
        with pytest.raises(UserError, match=r"\.tif: .*pixel_range"):
            decode(write(tmp_path / name, array), None, 1)
    dim = write(tmp_path / "dim.png", (RAMP * 4095).round().astype(np.uint16))
    with pytest.raises(UserError, match=r"dim\.png: 16-bit pixels that reach 4095"):
        decode(dim, None, 1, dim=False)
    assert decode(dim, None, 1, (0, 4095), dim=False).ravel().tolist() == (RAMP * 255).round().ravel().tolist()


def test_big_endian_and_inverted_and_12_bit_tiffs_are_what_they_are(tmp_path):
    values = (RAMP * 65535).astype(np.uint16)
    wanted = (values / 257).round().ravel().tolist()
    image = Image.fromarray(values)
    image.save(tmp_path / "white.tif", tiffinfo={262: 0})
    assert decode(tmp_path / "white.tif", None, 1).ravel().tolist() == [255 - value for value in wanted]
    big = Image.frombytes("I;16B", (4, 3), values.astype(">u2").tobytes())
    big.save(tmp_path / "big.tif")
    assert decode(tmp_path / "big.tif", None, 1).ravel().tolist() == wanted
    (tmp_path / "twelve.pgm").write_bytes(b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes())
    assert decode(tmp_path / "twelve.pgm", None, 1).ravel().tolist() == [0, 255]


def test_colour_models_and_transparency_become_plain_colour(tmp_path):
    red = Image.new("RGB", (8, 8), (200, 30, 60))
    lab = ImageCms.profileToProfile(
        red, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    for name, image in (("lab.tif", lab), ("y.jpg", red.convert("YCbCr")), ("c.tif", red.convert("CMYK"))):
        image.save(tmp_path / name)
        assert abs(decode(tmp_path / name, None, 3)[0, 0].astype(int) - (200, 30, 60)).max() <= 2
    values = np.array([[0, 40000]], np.uint16)
    Image.fromarray(values).save(tmp_path / "clear.png", transparency=0)
    if Image.open(tmp_path / "clear.png").info.get("transparency") == 0:  # written by Pillow versions that know how
        assert decode(tmp_path / "clear.png", None, 1).ravel().tolist() == [255, 156]


@pytest.mark.parametrize("span", [(1, 0), (0, 0), (0, float("nan")), (0,)])
def test_a_range_that_is_none_is_named(tmp_path, span):
    write_folder(tmp_path, np.uint8, 0, 255, "png")
    with pytest.raises(UserError, match="pixel_range"):
        load("folder", root=tmp_path, pixel_range=span)
    with pytest.raises(UserError, match="pixel_range: data 'digits' has no such option; leave it out"):
        load("digits", pixel_range=(0, 1))


def test_several_pictures_in_a_file_are_said(tmp_path, caplog):
    write_folder(tmp_path, np.uint8, 0, 255, "png")
    frames = [Image.new("L", (12, 12), value) for value in (10, 200)]
    frames[0].save(tmp_path / "dark" / "pages.tif", save_all=True, append_images=frames[1:])
    load("folder", root=tmp_path)
    assert "1 file holds several pictures, of which the first is used (dark/pages.tif)" in caplog.text


def test_a_run_predicts_with_the_range_that_taught_it(tmp_path):
    write_folder(tmp_path / "floats", np.float32, 0, 1)
    data = load("folder", root=tmp_path / "floats", pixel_range=(0, 1))
    run = go(Vanilla(network="resnet8"), data, tmp_path / "run", epochs=1, batch_size=8)
    assert run.card["pixel_range"] == (0, 1)
    floats = write(tmp_path / "x.tif", np.kron(RAMP, np.ones((4, 3))).astype(np.float32))
    bytes_ = write(tmp_path / "x.png", np.kron(RAMP * 255, np.ones((4, 3))).round().astype(np.uint8))
    first, second = coterie.predict(run, [floats, bytes_])
    assert first.probabilities == second.probabilities
    exported = coterie.export(run, "safetensors", tmp_path / "out.safetensors").path
    assert coterie.predict(exported, [floats])[0].probabilities == pytest.approx(first.probabilities, abs=1e-5)
    write_folder(tmp_path / "shallow", np.uint8, 0, 255, "png")
    plain = go(
        Vanilla(network="resnet8"),
        load("folder", root=tmp_path / "shallow"),
        tmp_path / "plain",
        epochs=1,
        batch_size=8,
    )
    with pytest.raises(UserError, match=r"x\.tif: float pixels.*convert this one to 8 bits"):
        coterie.predict(plain, [floats])


def write_deep_colour(path, high):
    """A PNG of 16-bit RGB, which Pillow reads and does not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    path.parent.mkdir(parents=True, exist_ok=True)
    values = (np.random.default_rng(0).random((12, 12, 3)) * high).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">2I5B", 12, 12, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return values


def test_colour_of_16_bits_keeps_its_high_8_and_is_refused_where_those_are_empty(tmp_path):
    for name in ("a", "b"):
        for index in range(4):
            values = write_deep_colour(tmp_path / name / f"{index}.png", 65535)
    assert (decode(tmp_path / "b" / "3.png", None, 3) == values // 256).all()
    assert load("folder", root=tmp_path).channels == 3
    with pytest.raises(UserError, match="colour of 16 bits, of which 8 can be read here"):
        load("folder", root=tmp_path, pixel_range=(0, 4095))
    for name in ("a", "b"):
        for index in range(4):
            write_deep_colour(tmp_path / name / f"{index}.png", 4095)
    with pytest.raises(UserError, match=r"8 images .*16-bit pixels that reach .* of 65535"):
        load("folder", root=tmp_path)
