"""Glyphs, drawn in the DejaVu and Computer Modern faces that matplotlib brings: no font package is needed."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from coterie import UserError
from coterie.data import load
from coterie.data.sources import glyphs
from coterie.data.sources.glyphs import RECIPE, Family, Recipe

SHIPPED = Path(matplotlib.get_data_path()) / "fonts/ttf"
FILES = {
    "Sans": ("train", ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf"]),
    "Serif": ("train", ["DejaVuSerif.ttf"]),
    "Modern": ("train", ["cmr10.ttf"]),  # which has no Cyrillic
    "Mono": ("test", ["DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"]),
}
CLASSES = ("A", "g", "Ж", "ω")


def family(name, split, files):
    faces = tuple((file, hashlib.sha256((SHIPPED / file).read_bytes()).hexdigest()) for file in files)
    return Family(name, f"fonts-{name.lower()}", split, "some/folder", faces)


SMALL = Recipe(CLASSES, tuple(family(name, *rest) for name, rest in FILES.items()), train=5, test=3)


@pytest.fixture
def root(tmp_path):
    """Packages unpacked into the folder of the data."""
    place = tmp_path / "usr/share/fonts/some/folder"
    place.mkdir(parents=True)
    for _, files in FILES.values():
        for file in files:
            shutil.copy(SHIPPED / file, place)
    return tmp_path


@pytest.fixture(scope="module")
def drawn():
    return glyphs.draw(SMALL, paths())


def paths():
    return {name: [SHIPPED / file for file in files] for name, (_, files) in FILES.items()}


@pytest.fixture
def clear(monkeypatch):
    """Full ink and no noise."""
    monkeypatch.setattr(glyphs, "_INK", (1.0, 1.0))
    monkeypatch.setattr(glyphs, "_NOISE", 0.0)


def same(one, other):
    return torch.equal(one.train.data, other.train.data) and torch.equal(one.test.data, other.test.data)


# What is drawn -------------------------------------------------------------------------------------------------------


def test_every_class_has_as_many_images_as_the_recipe_says(root):
    source = glyphs.build(root, SMALL)
    assert source.train.data.shape == (4 * 5, 32, 32, 1)
    assert source.test.data.shape == (4 * 3, 32, 32, 1)
    assert source.train.data.dtype == torch.uint8
    assert source.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert source.test.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    pixels = source.train.data.double() / 255
    assert (source.mean, source.std) == ((round(pixels.mean().item(), 4),), (round(pixels.std().item(), 4),))


def test_a_character_is_within_the_image_and_of_the_stated_size(clear):
    ink = glyphs.Face(SHIPPED / "DejaVuSans.ttf").ink("■")
    sides, places = [], []
    for seed in range(200):
        image = glyphs.vary(ink, np.random.default_rng(seed)).astype(float) / 255
        assert image.max() == 1
        sides.append(image.sum() ** 0.5)  # turning and slanting keep the area
        rows, columns = np.indices(image.shape)
        places += [(rows * image).sum() / image.sum(), (columns * image).sum() / image.sum()]
    assert min(sides) == pytest.approx(12, abs=0.3)
    assert max(sides) == pytest.approx(22, abs=0.3)
    assert min(places) == pytest.approx(13.5, abs=0.3)
    assert max(places) == pytest.approx(17.5, abs=0.3)


def test_an_image_shows_its_class():
    """Averaged over many variations, each class is most like itself in faces of the other split."""
    images = glyphs.draw(replace(SMALL, classes=("A", "—", "|", "•"), train=30, test=30), paths())
    train, test = (images[split].double().view(4, 30, -1).mean(1) for split in ("train", "test"))
    assert torch.cdist(train, test).argmin(1).tolist() == [0, 1, 2, 3]


def test_it_leans_either_way_and_no_further_than_stated(clear):
    bar = glyphs.Face(SHIPPED / "DejaVuSans.ttf").ink("|")
    leans = []
    for seed in range(100):
        image = glyphs.vary(bar, np.random.default_rng(seed)).astype(float)
        rows, columns = np.indices(image.shape)
        rows, columns = rows - np.average(rows, weights=image), columns - np.average(columns, weights=image)
        leans.append((rows * columns * image).sum() / (rows**2 * image).sum())
    steepest = np.tan(np.radians(12) + np.arctan(0.15))
    assert -steepest - 0.05 < min(leans) < -0.2
    assert 0.2 < max(leans) < steepest + 0.05


def test_noise_and_ink_are_as_stated():
    ink = glyphs.Face(SHIPPED / "DejaVuSans.ttf").ink("■")
    images = np.stack([glyphs.vary(ink, np.random.default_rng(seed)) for seed in range(200)]) / 255
    # At the corners there is noise alone, cut at 0: of a normal's half, the mean square is half of its variance.
    assert np.sqrt((images[:, :3, :3] ** 2).mean() * 2) == pytest.approx(0.05, abs=0.003)
    middles = images[:, 15:17, 15:17].mean((1, 2))
    assert middles.min() == pytest.approx(0.6, abs=0.05)
    assert 0.85 < middles.max() <= 1


def test_each_image_of_a_class_is_of_another_family_while_there_are_any():
    faces = [[glyphs.Face(path) for path in paths()[name]] for name in ("Sans", "Serif", "Modern")]
    of = {id(face): index for index, family in enumerate(faces) for face in family}
    for seed in range(5):
        chosen = glyphs._choose(faces, "A", 6, np.random.default_rng(seed))
        turns = [of[id(face)] for face in chosen]
        assert sorted(turns[:3]) == [0, 1, 2]
        assert turns[3:] == turns[:3]


def test_a_family_that_lacks_a_character_is_passed_over():
    faces = [[glyphs.Face(path) for path in paths()[name]] for name in ("Sans", "Modern")]
    assert not faces[1][0].has("Ж")
    chosen = glyphs._choose(faces, "Ж", 6, np.random.default_rng(0))
    assert all(face in faces[0] for face in chosen)
    with pytest.raises(ValueError, match="no family of the split has 'Ж'"):
        glyphs._choose(faces[1:], "Ж", 1, np.random.default_rng(0))


def test_a_blank_is_no_character():
    assert not glyphs.Face(SHIPPED / "DejaVuSans.ttf").has("\N{NO-BREAK SPACE}")


def test_a_split_is_drawn_in_its_own_families_alone():
    only = replace(SMALL, families=SMALL.families[:1] + SMALL.families[3:])
    split = {"Sans": "train", "Mono": "test"}
    images = glyphs.draw(only, {name: paths()[name] for name in split})
    # The same split alone, with another family on the other side, draws the same.
    other = replace(only, families=(only.families[0], replace(only.families[1], name="Serif")))
    again = glyphs.draw(other, {name: paths()[name] for name in ("Sans", "Serif")})
    assert torch.equal(images["train"], again["train"])
    assert not torch.equal(images["test"], again["test"])


@pytest.mark.libraries
def test_the_images_are_a_function_of_seed_and_character(drawn):
    again = glyphs.draw(SMALL, paths())
    assert torch.equal(drawn["train"], again["train"])
    assert torch.equal(drawn["test"], again["test"])
    fewer = glyphs.draw(replace(SMALL, classes=("g", "ω")), paths())
    assert torch.equal(fewer["train"], drawn["train"].view(4, 5, 32, 32)[[1, 3]].view(10, 32, 32))
    assert not torch.equal(glyphs.draw(replace(SMALL, seed=1), paths())["train"], drawn["train"])


# What is kept --------------------------------------------------------------------------------------------------------


def test_what_was_drawn_is_read_again_without_any_font(root):
    first = glyphs.build(root, SMALL)
    shutil.rmtree(root / "usr")
    assert same(glyphs.build(root, SMALL), first)
    assert [path.name for path in (root / "glyphs").iterdir()] == ["glyphs.safetensors"]


@pytest.mark.parametrize("damage", ["a pixel", "cut", "empty", "no tensors"])
def test_a_damaged_file_is_drawn_again(root, damage):
    first = glyphs.build(root, SMALL)
    path = root / "glyphs" / "glyphs.safetensors"
    whole = path.read_bytes()
    damaged = {
        "a pixel": whole[:-1] + bytes([whole[-1] ^ 1]),
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "no tensors": b"not a safetensors file",
    }[damage]
    path.write_bytes(damaged)
    assert same(glyphs.build(root, SMALL), first)
    assert path.read_bytes() == whole


def test_what_another_recipe_drew_is_not_taken(root):
    glyphs.build(root, SMALL)
    assert glyphs.build(root, replace(SMALL, classes=("A", "B"))).train.data.shape[0] == 10
    assert not same(glyphs.build(root, replace(SMALL, seed=3)), glyphs.build(root, SMALL))


def test_another_checksum_is_a_warning_each_time(root, drawn):
    wrong = replace(SMALL, checksum="0" * 64, drawn_with="Pillow 1, FreeType 2")
    for _ in range(2):  # drawn, and read again
        with pytest.warns(
            UserWarning, match=r"differ from those drawn with Pillow 1, FreeType 2 .*, not 000000000000"
        ) as said:
            glyphs.build(root, wrong)
        assert "\n" not in str(said[0].message)


@pytest.mark.filterwarnings("error")
def test_the_right_checksum_is_silent(root, drawn):
    images = b"".join(drawn[split].numpy().tobytes() for split in ("train", "test"))
    glyphs.build(root, replace(SMALL, checksum=hashlib.sha256(images).hexdigest()))


# Errors --------------------------------------------------------------------------------------------------------------


def test_missing_fonts_are_told_by_their_packages_in_one_line(root):
    folder = root / "usr/share/fonts/some/folder"
    for file in ("DejaVuSerif.ttf", "cmr10.ttf", "DejaVuSans-Bold.ttf"):
        (folder / file).unlink()
    with pytest.raises(UserError, match="apt-get install fonts-modern fonts-sans fonts-serif, or unpack") as error:
        glyphs.build(root, SMALL)
    assert "\n" not in str(error.value)
    assert not (root / "glyphs" / "glyphs.safetensors").exists()


def test_a_font_of_another_version_is_told_by_its_file(root):
    path = root / "usr/share/fonts/some/folder/DejaVuSerif.ttf"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"DejaVuSerif.ttf: another version than that of .* fonts-serif"):
        glyphs.build(root, SMALL)


def test_a_file_that_is_no_font_is_told(tmp_path):
    path = tmp_path / "x.ttf"
    path.write_bytes(b"no font at all")
    with pytest.raises(UserError, match=r"x.ttf: cannot be read as a font"):
        glyphs.Face(path)


# By name -------------------------------------------------------------------------------------------------------------


def test_by_name_it_is_cropped_never_mirrored_and_takes_the_usual_options(root, monkeypatch):
    monkeypatch.setattr(glyphs, "RECIPE", SMALL)
    data = load("glyphs", root=root, train_samples=12, seed=5)
    assert (data.augment, data.classes, data.image_size, data.channels) == ("crop", CLASSES, (32, 32), 1)
    assert len(data.train) == 12
    assert data.options == {
        "name": "glyphs", "root": str(root), "train_samples": 12, "seed": 5,
        "image_size": [32, 32], "channels": 1, "augment": "crop",
    }  # fmt: skip
    assert same(load("glyphs", root=root), load("glyphs", root=root, seed=1))


# The published recipe ------------------------------------------------------------------------------------------------


def test_the_recipe_keeps_families_and_files_apart():
    assert len(RECIPE.classes) == len(set(RECIPE.classes)) == 240
    names = [family.name for family in RECIPE.families]
    assert len(names) == len(set(names))
    sides = {split: [family for family in RECIPE.families if family.split == split] for split in ("train", "test")}
    assert {split: len(families) for split, families in sides.items()} == {"train": 35, "test": 14}
    files = [f"{family.folder}/{name}" for family in RECIPE.families for name, _ in family.faces]
    checksums = [checksum for family in RECIPE.families for _, checksum in family.faces]
    assert len(files) == len(set(files)) == len(set(checksums))
    assert all(len(checksum) == 64 for checksum in checksums)
    # Letters of one shape are one class: no capital beside its small letter of the same shape, in any script.
    assert not any(small in RECIPE.classes for small in "covwxzspuбжийлфцчшщъыьэюя")
    assert not set(RECIPE.classes) & set("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧАВЕКМНОРСТХГП")


INSTALLED = all((glyphs._DEBIAN / family.folder / family.faces[0][0]).is_file() for family in RECIPE.families)


@pytest.mark.skipif(not INSTALLED, reason="Debian's font packages of docs/guides/glyphs.md are not installed")
def test_enough_installed_families_have_each_character():
    faces = {
        name: [glyphs.Face(path) for path in each]
        for name, each in glyphs.fonts(Path("nowhere"), RECIPE.families).items()
    }
    for split, count in (("train", RECIPE.train), ("test", RECIPE.test)):
        families = [faces[family.name] for family in RECIPE.families if family.split == split]
        for character in RECIPE.classes:
            assert sum(any(ord(character) in face.characters for face in each) for each in families) >= count
