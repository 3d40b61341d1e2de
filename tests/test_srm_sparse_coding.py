"""Sparse codes and their losses against plain arithmetic."""

from itertools import product
from math import e, exp, log, sqrt

import pytest
import torch
from torch import nn

from coterie.methods.srm.sparse_coding import (
    SparseCoding,
    SparseHead,
    count_atoms,
    count_kept_codes,
    image_loss,
    pixel_loss,
    pool_to,
    reconstruction_loss,
)

# Two images of two channels and 1x2 places, three atoms.
FEATURES = torch.tensor([[[[1.0, -2.0]], [[0.5, 1.0]]], [[[0.0, 3.0]], [[-1.0, 0.25]]]], dtype=torch.float64)
ATOMS = torch.tensor([[0.4, -0.3, 1.2], [-0.7, 0.9, 0.1]], dtype=torch.float64)
BIAS = -0.25
PLACES = list(product(range(2), range(2)))


def sigmoid(value):
    return 1 / (1 + exp(-value))


def coding(kept=1, kind=SparseCoding):
    made = (kind(2, 3, kept) if kind is SparseCoding else kind(2, 3)).double()
    made.load_state_dict({"dictionary": ATOMS, "bias": torch.tensor(BIAS)})
    return made


def z(image, place, atom):
    return sum(FEATURES[image, c, 0, place].item() * ATOMS[c, atom].item() for c in range(2)) + BIAS


def by_hand(kept):
    """ψ[image][place][atom]."""
    codes = {}
    for image, place in PLACES:
        kappa = [sigmoid(z(image, place, atom)) for atom in range(3)]
        threshold = sorted(kappa)[-kept]
        codes[image, place] = [value if value >= threshold else 0.0 for value in kappa]
    return codes


def near(value):
    return pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_codes_labels_and_reconstruction(kept):
    wanted, got = by_hand(kept), coding(kept)(FEATURES)
    rebuilt = 0.0
    for image, place in PLACES:
        psi = wanted[image, place]
        assert got.codes[image, :, 0, place].tolist() == near(psi)
        assert got.pixel_labels[image, 0, place] == psi.index(max(psi))
        for c in range(2):
            value = sum(ATOMS[c, atom].item() * psi[atom] for atom in range(3))
            assert got.reconstruction[image, c, 0, place].item() == near(value)
            rebuilt += (value - FEATURES[image, c, 0, place].item()) ** 2 / 8
    for image in range(2):
        mean = [(wanted[image, 0][atom] + wanted[image, 1][atom]) / 2 for atom in range(3)]
        assert got.image_labels[image].tolist() == near(mean)
    assert reconstruction_loss(FEATURES, got.reconstruction).item() == near(rebuilt)


def test_vectors_are_maps_of_one_place():
    flat = FEATURES[:, :, 0, 0]
    got = coding(2)(flat)
    assert torch.equal(got.codes, coding(2)(FEATURES[:, :, :, :1]).codes)
    assert torch.equal(got.image_labels, got.codes[:, :, 0, 0])
    assert reconstruction_loss(flat, got.reconstruction) == reconstruction_loss(
        FEATURES[:, :, :, :1], got.reconstruction
    )


def test_ties_are_kept_and_a_saturated_sigmoid_hides_no_strongest_atom():
    tied = SparseCoding(1, 4, 2)
    tied.load_state_dict({"dictionary": torch.tensor([[1.0, 1.0, 1.0, 0.5]]), "bias": torch.tensor(0.0)})
    assert (tied(torch.ones(1, 1, 1, 1)).codes[0, :, 0, 0] > 0).tolist() == [True, True, True, False]
    saturated = tied(torch.full((1, 1, 1, 1), 50.0))
    assert (saturated.codes > 0).all()  # all are 1 in float32
    tied.load_state_dict({"dictionary": torch.tensor([[1.0, 2.0, 3.0, 0.5]]), "bias": torch.tensor(0.0)})
    assert tied(torch.full((1, 1, 1, 1), 50.0)).pixel_labels.item() == 2


def test_exactly_k_codes_are_kept_without_ties_and_labels_are_shares():
    made = SparseCoding(16, 64, 5)
    got = made(torch.randn(3, 16, 4, 4))
    assert ((got.codes > 0).sum(1) == 5).all()
    assert got.image_labels.min() >= 0
    assert got.image_labels.max() <= 1
    assert set(made.state_dict()) == {"dictionary", "bias"}


def test_the_mask_carries_no_gradient_and_kept_codes_do():
    made = coding(1)
    features = FEATURES.clone().requires_grad_()
    made(features).codes.sum().backward()
    slope = sum(v * (1 - v) for psi in by_hand(1).values() for v in psi if v)
    assert made.bias.grad.item() == near(slope)

    def rebuilt(dictionary, bias):
        return torch.func.functional_call(made, {"dictionary": dictionary, "bias": bias}, FEATURES).reconstruction

    assert torch.autograd.gradcheck(
        rebuilt, (ATOMS.clone().requires_grad_(), torch.tensor(BIAS).double().requires_grad_())
    )


def test_losses_of_a_student():
    head = coding(kind=SparseHead)
    products = head(FEATURES)
    pixels, images = torch.tensor([[[0, 2]], [[1, 0]]]), torch.rand(2, 3, dtype=torch.float64)
    raw = faithful = 0.0
    for image, place in PLACES:
        assert products[image, :, 0, place].tolist() == near([z(image, place, atom) for atom in range(3)])
        said, label = [z(image, place, atom) for atom in range(3)], pixels[image, 0, place].item()
        raw -= log(exp(said[label]) / sum(map(exp, said))) / 4
        said = [sigmoid(value) for value in said]
        faithful -= log(exp(said[label]) / sum(map(exp, said))) / 4
    assert pixel_loss(products, pixels).item() == near(raw)
    assert pixel_loss(products, pixels, "sigmoid").item() == near(faithful)
    dense = 0.0
    for image, atom in product(range(2), range(3)):
        g, h = sum(sigmoid(z(image, place, atom)) for place in range(2)) / 2, images[image, atom].item()
        dense -= (h * log(g) + (1 - h) * log(1 - g)) / 6
    assert image_loss(products, images).item() == near(dense)


def test_the_image_loss_stays_finite_where_the_sigmoid_does_not_resolve():
    products = torch.full((1, 2, 2, 2), 200.0, requires_grad=True)
    loss = image_loss(products, torch.tensor([[0.0, 1.0]]))
    assert loss.item() == pytest.approx(100)
    loss.backward()
    assert products.grad.isfinite().all()
    assert products.grad[0, 0].sum() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("atoms", "floor", "uniform"),
    [(256, 4.552, 5.545), (512, 5.242, 6.238), (1024, 5.933, 6.931), (2048, 6.625, 7.625), (4096, 7.318, 8.318)],
)
def test_the_official_codes_pixel_loss_has_a_floor(atoms, floor, uniform):
    labels = torch.randint(atoms, (2, 2, 2))
    perfect = torch.where(nn.functional.one_hot(labels, atoms).permute(0, 3, 1, 2).bool(), 1e4, -1e4).double()
    assert pixel_loss(perfect, labels, "sigmoid").item() == near(log((atoms - 1 + e) / e))
    assert log((atoms - 1 + e) / e) == pytest.approx(floor, abs=6e-4)
    assert pixel_loss(perfect, labels).item() == 0
    nothing = torch.zeros(2, atoms, 2, 2)
    for logits in ("raw", "sigmoid"):
        assert pixel_loss(nothing, labels, logits).item() == pytest.approx(uniform, abs=6e-4)
    some = torch.randn(2, atoms, 2, 2) * 100
    assert pixel_loss(some, labels, "sigmoid").item() > log((atoms - 1 + e) / e)


# Section 5.3 of what the official code computes: C of the three places 128, 256, 1024; rows μ, columns λ.
@pytest.mark.parametrize(
    ("mu", "atoms", "kept"),
    [
        (1.5, [192, 384, 1536], [[1, 3, 15], [3, 7, 30], [5, 11, 46]]),
        (2.0, [256, 512, 2048], [[2, 5, 20], [5, 10, 40], [7, 15, 61]]),
        (3.0, [384, 768, 3072], [[3, 7, 30], [7, 15, 61], [11, 23, 92]]),
    ],
)
def test_dictionary_sizes_and_kept_codes(mu, atoms, kept):
    channels = (128, 256, 1024)
    assert [count_atoms(each, mu) for each in channels] == atoms
    for lam, row in zip((0.01, 0.02, 0.03), kept, strict=True):
        assert [count_kept_codes(each, mu, lam) for each in channels] == row
    assert count_kept_codes(3, mu, 0.01) == 1


def test_sizes_of_the_transfer_and_imagenet_experiments():
    assert [count_atoms(each, 2) for each in (64, 512, 1024, 2048)] == [128, 1024, 2048, 4096]
    assert [count_kept_codes(each, 2, 0.02) for each in (64, 512, 1024, 2048)] == [2, 20, 40, 81]
    assert [count_atoms(each, 4) for each in (64, 128, 256, 512)] == [256, 512, 1024, 2048]
    assert [count_kept_codes(each, 4, 0.02) for each in (64, 128, 256, 512)] == [5, 10, 20, 40]


@pytest.mark.parametrize("atoms", [256, 2048])
def test_initial_values(atoms):
    made = SparseCoding(128, atoms, 5)
    limit = sqrt(6 / atoms)
    assert limit * 0.99 < made.dictionary.abs().max() <= limit
    assert made.dictionary.mean().abs() < limit / 50
    biases = torch.stack([SparseHead(1, 2).bias.detach() for _ in range(200)])
    assert made.bias.dim() == 0
    assert biases.abs().max() <= 1
    assert biases.std() == pytest.approx(1 / sqrt(3), rel=0.2)


def test_half_precision_features_are_coded_in_float32():
    made = SparseCoding(4, 8, 2)
    features = torch.randn(2, 4, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = made(features.bfloat16())
        losses = [
            reconstruction_loss(features.bfloat16(), got.reconstruction),
            pixel_loss(got.products, got.pixel_labels),
        ]
        losses += [pixel_loss(got.products, got.pixel_labels, "sigmoid"), image_loss(got.products, got.image_labels)]
    assert {got.products.dtype, got.codes.dtype, *(each.dtype for each in losses)} == {torch.float32}


def test_larger_maps_are_averaged_down():
    features = torch.arange(16.0).view(1, 1, 4, 4)
    assert pool_to(features, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_to(features, (4, 4)) is features
    assert pool_to(features[:, :, 0, 0], (1, 1)).shape == (1, 1)
