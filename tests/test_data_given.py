"""Data that a caller in Python has at hand: arrays, data sets of PyTorch's and Hugging Face's."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import coterie
import resuming
from coterie import UserError
from coterie.data import Resident, Streaming, evaluation_batches, from_arrays, from_dataset, training_batches
from coterie.methods import Vanilla
from coterie.recipes import Recipe

LABELS = np.arange(30) % 3
PIXELS = (
    np.random.default_rng(0).integers(0, 90, (30, 12, 12, 3)).astype(np.uint8)
    + (60 * LABELS).astype(np.uint8)[:, None, None, None]
)
EPOCH = {"batch_size": 8, "seed": 0, "stage": 0, "epoch": 0, "views": 2}


class Pairs(Dataset):
    """A map-style data set, its images as ``form`` makes them."""

    def __init__(self, form=Image.fromarray, labels=LABELS):
        self.form, self.labels = form, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.form(PIXELS[index]), self.labels[index]


def same_batches(one, other):
    for ours, theirs in zip(training_batches(one, **EPOCH), training_batches(other, **EPOCH), strict=True):
        assert torch.equal(ours.views[0], theirs.views[0])
        assert torch.equal(ours.views[1], theirs.views[1])
        assert torch.equal(ours.labels, theirs.labels)
    assert torch.equal(
        next(evaluation_batches(one, one.test)).images, next(evaluation_batches(other, other.test)).images
    )


def test_arrays_of_numpy_and_torch_are_the_same_data():
    data = from_arrays(PIXELS, LABELS, PIXELS[:6], LABELS[:6], classes=("cat", "dog", "owl"))
    assert isinstance(data.train, Resident)
    assert (data.classes, data.image_size, data.channels, data.augment) == (
        ("cat", "dog", "owl"),
        (12, 12),
        3,
        "crop-flip",
    )
    assert torch.equal(data.train.data, torch.from_numpy(PIXELS))
    assert data.train.labels.tolist() == LABELS.tolist()
    tensors = torch.from_numpy(PIXELS), torch.from_numpy(LABELS)
    same_batches(data, from_arrays(*tensors, tensors[0][:6], LABELS[:6].tolist(), classes=["cat", "dog", "owl"]))
    grey = from_arrays(PIXELS[..., 0], LABELS, test_fraction=0.5, validation=0.2)
    assert (grey.channels, grey.classes, grey.train.data.shape[1:]) == (1, ("0", "1", "2"), (12, 12, 1))
    assert (len(grey.train), len(grey.validation), len(grey.test)) == (12, 3, 15)
    assert np.bincount(grey.test.labels).tolist() == [5, 5, 5]
    other = from_arrays(PIXELS[..., 0], LABELS, test_fraction=0.5, seed=1)
    assert not torch.equal(other.test.data, grey.test.data)


@pytest.mark.parametrize("form", [Image.fromarray, np.copy, torch.from_numpy], ids=["pillow", "array", "tensor"])
def test_a_data_set_is_the_same_data_as_its_arrays(form):
    data = from_dataset(Pairs(form))
    same_batches(data, from_arrays(PIXELS, LABELS))
    streaming = from_dataset(Pairs(form), memory_gb=0)
    assert isinstance(streaming.train, Streaming)
    same_batches(streaming, data)


def test_what_streams_is_read_by_processes_too():
    same_batches(from_dataset(Pairs(), memory_gb=0, workers=1), from_arrays(PIXELS, LABELS))


def test_sizes_channels_and_names_of_a_data_set():
    class Uneven(Pairs):
        classes = ("cat", "dog", "owl")

        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image.convert("L").resize((20 + index, 30)), torch.tensor(label)

    data = from_dataset(Uneven(), Uneven(), image_size=16)
    assert (data.classes, data.image_size, data.channels) == (("cat", "dog", "owl"), (16, 16), 1)
    assert (len(data.train), len(data.test)) == (30, 30)
    assert from_dataset(Uneven(), channels=3).train.data.shape[1:] == (256, 256, 3)  # kept larger, to be cropped


@pytest.mark.libraries
def test_a_data_set_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog", "owl"]),
            "note": datasets.Value("string"),
        }
    )
    rows = {"picture": [Image.fromarray(each) for each in PIXELS], "kind": LABELS.tolist(), "note": ["x"] * 30}
    made = datasets.Dataset.from_dict(rows, features=features)
    data = from_dataset(made, image="picture", label="kind")
    assert data.classes == ("cat", "dog", "owl")
    same_batches(data, from_arrays(PIXELS, LABELS))
    with pytest.raises(UserError, match=r"train\[0\] has no 'image', but picture, kind, note; say which with `image`"):
        from_dataset(made)
    with pytest.raises(UserError, match=r"train is a mapping of train, test; give its parts"):
        from_dataset(datasets.DatasetDict({"train": made, "test": made}))
    with pytest.raises(UserError, match="a stream has none"):
        from_dataset(made.to_iterable_dataset())


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ((PIXELS / 255.0, LABELS), "images are float64; give uint8 from 0 to 255"),
        ((torch.rand(30, 3, 12, 12), LABELS), "images are float32"),
        ((PIXELS.transpose(0, 3, 1, 2), LABELS), r"shape \[30, 3, 12, 12\]; give .* the channels last"),
        ((PIXELS[0, 0], LABELS), r"shape \[12, 3\]; give \(N, H, W\)"),
        ((PIXELS[:, :4], LABELS), "4x12 pixels each; give 8x8 or more"),
        ((PIXELS.tolist(), LABELS), "images is .*; give a uint8 array"),
        ((PIXELS, LABELS[:-1]), "labels: there are 29, and 30 images"),
        ((PIXELS, None), "labels is empty; give class indices"),
        ((PIXELS, LABELS / 2), "labels: that of image 0 is 0.0; write a class index"),
        ((PIXELS, LABELS - 1), "labels: that of image 0 is -1; write a class index"),
        ((PIXELS, np.eye(30)), r"labels have the shape \[30, 30\]"),
        ((PIXELS, ["cat"] * 30), "that of image 0 is 'cat'; write a class index"),
        ((PIXELS, LABELS * 2), "labels go to 4, and no image has 1, 3; number the classes"),
        ((PIXELS, LABELS * 0), "there is one class"),
        ((PIXELS, LABELS, PIXELS[:2], [0, 3]), "test image 1 has the label 3, and there are 3 classes, from 0 to 2"),
        ((PIXELS, LABELS, PIXELS[:2, :8], [0, 1]), r"test_images are \[8, 12, 3\] each, and images \[12, 12, 3\]"),
        ((PIXELS, LABELS, PIXELS[:2]), "test_labels is empty; give class indices"),
        ((PIXELS, LABELS, None, [0, 1]), "test_labels are given without test_images"),
    ],
)
def test_what_is_wrong_with_arrays_is_one_line(given, line):
    with pytest.raises(UserError, match=line) as caught:
        from_arrays(*given)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_a_data_set_or_an_option_is_one_line():
    class Broken(Pairs):
        def __getitem__(self, index):
            if index == 4:
                raise OSError("no such thing")
            return super().__getitem__(index)

    for given, line in (
        (
            Pairs(lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1) / 255),
            r"train\[0\] has an image of float32; give",
        ),
        (Pairs(lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1)), r"\[3, 12, 12\]; put the channels last"),
        (Pairs(lambda pixels: "cat.png"), r"train\[0\] has as image 'cat.png'; give uint8 or Pillow's images"),
        (Pairs(labels=["cat"] * 30), "labels of train: that of image 0 is 'cat'"),
        (Pairs(labels=[]), "train is empty"),
        (Broken(), r"train\[4\] cannot be read \(OSError: no such thing\); mend the data set"),
        ([1, 2], r"train\[0\] is 1; items are pairs"),
        (5, "train is 5; give a data set"),
    ):
        with pytest.raises(UserError, match=line):
            from_dataset(given)
    with pytest.raises(UserError, match="validation is 2; use"):
        from_arrays(PIXELS, LABELS, validation=2)
    with pytest.raises(UserError, match=r"validation=0\.95 holds out 28 of 30"):
        from_arrays(PIXELS, LABELS, PIXELS, LABELS, validation=0.95)
    with pytest.raises(UserError, match="test_fraction: the test images are given"):
        from_arrays(PIXELS, LABELS, PIXELS, LABELS, test_fraction=0.5)
    with pytest.raises(UserError, match="mean has 2 values"):
        from_arrays(PIXELS, LABELS, mean=(0.1, 0.2))


def test_a_run_is_trained_opened_and_gone_on_with(tmp_path):
    data = from_arrays(PIXELS, LABELS, validation=0.2)
    options = {"epochs": 1, "batch_size": 8, "threads": 1, "progress": False, "recipe": Recipe()}
    run = coterie.train(Vanilla(network="resnet8"), data, out=tmp_path / "run", **options)
    assert coterie.evaluate(run)["error"] == pytest.approx(run.card["test"]["target"]["error"])
    opened = coterie.Run(tmp_path / "run", data=from_arrays(PIXELS, LABELS, validation=0.2))
    assert coterie.evaluate(opened) == coterie.evaluate(run)
    with pytest.raises(UserError, match="trained on data of yours"):
        coterie.Run(tmp_path / "run").data()


def test_a_training_on_a_data_set_resumes_exactly(tmp_path):
    options = {"epochs": 2, "batch_size": 6}
    make = lambda: Vanilla(network="resnet8")  # noqa: E731
    assert resuming.resumes_exactly(make, from_dataset(Pairs(), memory_gb=0), tmp_path, "train", 2, **options)
