"""What is said of the classes' counts before a training."""

import numpy as np
import pytest

from coterie.cli import main
from coterie.data import from_arrays
from coterie.data.balance import balance_lines
from test_data_csv import write, write_list


def lines(*counts, balanced=False):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), 8, 8), np.uint8)
    data = from_arrays(images, labels, images[:1], labels[:1], classes=["cat", "dog", "owl"])
    return balance_lines(data, balanced)


def test_even_classes_are_silent_and_uneven_ones_are_counted():
    assert lines(10, 12, 14) == []
    assert lines(10, 40, 14) == [
        "training images of a class: from 10 ('cat') to 40 ('dog'), 4 times as many; 3 classes"
    ]
    assert len(lines(4, 40, 14)) == 1  # ten times is not more than ten times


def test_very_uneven_classes_are_warned_of_unless_the_recipe_balances_them():
    counted, warning = lines(90, 1080, 6)
    assert counted == "training images of a class: from 6 ('owl') to 1,080 ('dog'), 180 times as many; 3 classes"
    assert "'dog' has more than 10 times the images of 'owl'" in warning
    assert "recipe.class_weights balanced" in warning
    assert "recipe.sampling balanced" in warning
    assert lines(90, 1080, 6, balanced=True) == [counted]


@pytest.mark.parametrize(("option", "warned"), [([], True), (["--recipe.class_weights", "balanced"], False)])
def test_the_command_says_it(tmp_path, capsys, option, warned):
    file = write_list(tmp_path, count=20)
    names = [line.split(",")[0] for line in file.read_text().splitlines()[1:]]
    write(tmp_path, ["image,label", *(f"{name},{'owl' if n < 3 else 'cat'}" for n, name in enumerate(names))])
    given = ["--network", "resnet8", "--method", "vanilla", "--epochs", "1", "--threads", "1", "--batch_size", "16"]
    main(["train", "--data", "csv", "--data.file", str(file), *given, "--out", str(tmp_path / "run"), *option])
    said = capsys.readouterr().err
    assert "training images of a class: from 2 ('owl') to 46 ('cat')" in said
    assert ("try --recipe.class_weights balanced or --recipe.sampling balanced" in said) == warned
