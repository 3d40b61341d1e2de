"""Slips in Python: what is no object or value of the right kind is named in one line, with the mend."""

import pytest
import torch

import coterie
from coterie import UserError
from coterie.methods import One
from toys import plain


@pytest.fixture(scope="module")
def output():
    net = coterie.branch(coterie.networks.build("resnet8", 10, 1), 2, example=torch.zeros(2, 1, 8, 8))
    return net(torch.zeros(2, 1, 8, 8))


MODEL = coterie.networks.build("resnet8", 10, 1)
IMAGES = torch.zeros(2, 1, 8, 8)
LABELS = torch.tensor([1, 2])

SLIPS = [
    (lambda *_: coterie.branch("resnet8", 3), "model is 'resnet8'; give a module"),
    (lambda *_: coterie.branch(MODEL, "3", example=IMAGES), "num_branches is '3'; write a whole number"),
    (lambda *_: coterie.branch(MODEL, 0, example=IMAGES), "num_branches is 0; use"),
    (lambda *_: coterie.branch(MODEL, (), example=IMAGES), "num_branches is empty"),
    (lambda *_: coterie.branch(MODEL, 3, example="x"), "example is 'x'; write a Tensor"),
    (lambda *_: coterie.branch(MODEL, 3, example=IMAGES, gate="sofmax"), "unknown gate 'sofmax'; did you mean"),
    (lambda *_: coterie.branch(MODEL, 3, example=IMAGES, init="frsh"), "unknown init 'frsh'; did you mean 'fresh'"),
    (lambda out, *_: coterie.losses.one(out, LABELS, temperature=0), "temperature is 0; use"),
    (lambda out, *_: coterie.losses.one(out, LABELS, temperature="3"), "temperature is '3'"),
    (lambda out, *_: coterie.losses.one(out, LABELS, weight=-1), "weight is -1; use a finite number of 0 or more"),
    (lambda out, *_: coterie.losses.one(out.logits, LABELS), "needs an ensemble; give it the output of branch"),
    (lambda *_: coterie.networks.build("resnet8", num_classes="ten"), "num_classes is 'ten'; write a whole number"),
    (lambda *_: coterie.networks.Backbone("resnet8", pretrained="yes"), "pretrained is 'yes'"),
    (lambda out, run, *_: coterie.evaluate(run, split="tset"), "unknown split 'tset'; did you mean 'test'"),
    (lambda out, run, *_: coterie.evaluate(run, splt="test"), "unknown option of data 'digits' 'splt'"),
    (lambda out, run, *_: coterie.predict(run, "a.png"), "a.png: no such file"),
    (lambda out, run, *_: coterie.predict(run, ["a.png"], top=0), "top is 0; use 1 or more"),
    (lambda out, run, *_: coterie.report([], "r.html"), "nothing to report"),
    (
        lambda out, run, digits, folder: coterie.train(One(network=3), digits, out=folder / "x"),
        "network 3 is neither a name, a module nor a factory",
    ),
    (
        lambda out, run, digits, folder: coterie.train(One(network="resnet8"), digits, out=folder / "x", resume="yes"),
        "resume is 'yes'; write true or false",
    ),
]


@pytest.mark.parametrize(("slip", "said"), SLIPS, ids=range(len(SLIPS)))
def test_a_slip_is_one_line(slip, said, output, finished, digits, tmp_path):
    with pytest.raises(UserError) as refused:
        slip(output, finished, digits, tmp_path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "x").exists()


def test_an_empty_name_of_an_image_is_said_so(finished):
    with pytest.raises(UserError, match="the name of an image is empty"):
        coterie.predict(finished, "")


def test_a_module_of_ones_own_cannot_teach_by_its_folder(digits, tmp_path):
    taught = coterie.train(
        coterie.methods.Vanilla(network=plain()), digits, epochs=1, out=tmp_path / "own", progress=False
    )
    with pytest.raises(UserError, match="trained from a module of your own; name a Run of a network by name"):
        coterie.train(
            coterie.methods.Kd(network="resnet8", teacher=str(taught.path)), digits, epochs=1, out=tmp_path / "kd"
        )
    assert not (tmp_path / "kd").exists()
