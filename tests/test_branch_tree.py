"""Trees of branches, a view for each branch, rescaled gradients, and what a tail gives beside its logits."""

import copy

import pytest
import timm
import torch

from coterie import UserError, branch
from coterie.networks import build


def tree(**options):
    torch.manual_seed(0)
    example = torch.randn(2, 3, 16, 16)
    return branch(build("resnet8", 6).double(), (2, 2), ("layer2", "layer3"), example, **options)


def assembled(net, roots):
    """A plain network of a leaf's modules: the target's trunk, and each root's stage."""
    plain = copy.deepcopy(net.target)
    for root in roots:
        plain.load_state_dict(plain.state_dict() | root.state_dict())
    return plain


def leaves(net):
    """level 1: one auxiliary copy of layer2; level 2: three of layer3."""
    second, *thirds = net.branches
    return [
        assembled(net, []),
        assembled(net, [thirds[0]]),
        assembled(net, [second, thirds[1]]),
        assembled(net, [second, thirds[2]]),
    ]


def test_every_leaf_of_a_tree_is_its_own_path():
    net = tree().eval()
    assert [name for name, _ in net.branches[0].named_children()] == ["layer2"]
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    output = net(images)
    for leaf, plain in enumerate(leaves(net)):
        torch.testing.assert_close(output.logits[:, leaf], plain(images))
    assert net.fans == (2, 2)
    assert output.weights.shape == (3, 4)
    tensors = [tensor.data_ptr() for tensor in net.state_dict().values() if tensor.dim()]
    assert len(tensors) == len(set(tensors))


def test_each_branch_computes_its_own_view():
    net = tree().eval()
    views = [torch.randn(3, 3, 16, 16, dtype=torch.float64) for _ in range(4)]
    output = net(*views)
    for leaf, plain in enumerate(leaves(net)):
        torch.testing.assert_close(output.logits[:, leaf], plain(views[leaf]))
    same = net(*[views[0]] * 4)
    torch.testing.assert_close(same.logits, net(views[0]).logits)
    torch.testing.assert_close(same.weights, net(views[0]).weights)


def test_rescaling_divides_gradients_by_the_copies_below_each_cut():
    plain, rescaled = tree(), tree(rescale=True)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    for net in (plain, rescaled):
        net(images).logits.square().sum().backward()
    torch.testing.assert_close(plain(images).logits, rescaled(images).logits, rtol=0, atol=0)
    ours, theirs = rescaled.target, plain.target
    torch.testing.assert_close(ours.fc.weight.grad, theirs.fc.weight.grad)
    torch.testing.assert_close(ours.layer2[0].conv1.weight.grad, theirs.layer2[0].conv1.weight.grad / 2)
    torch.testing.assert_close(ours.conv1.weight.grad, theirs.conv1.weight.grad / 4)


@pytest.mark.parametrize(
    ("model", "size", "width", "places"),
    [
        (lambda: build("resnet8", 6), 16, 64, (4, 4)),
        (lambda: timm.create_model("resnet10t", num_classes=6, drop_rate=0.5), 64, 512, (2, 2)),
        (lambda: timm.create_model("densenet121", num_classes=6), 64, 1024, (2, 2)),
    ],
)
def test_maps_and_what_the_classifier_reads_are_given(model, size, width, places):
    torch.manual_seed(0)
    images = torch.randn(2, 3, size, size)
    net = branch(model(), 2, example=images, maps=True)
    for mode in (True, False):
        output = net.train(mode)(images)
        assert [tuple(each.shape) for each in output.features] == [(2, width)] * 2
        assert [tuple(each.shape) for each in output.maps] == [(2, width, *places)] * 2
        if not mode:
            torch.testing.assert_close(output.maps[1].mean((2, 3)), output.features[1])
            head = net.branches[0].get_submodule("fc" if hasattr(net.target, "fc") else "classifier")
            torch.testing.assert_close(head(output.features[1]), output.logits[:, 1])
    assert branch(model(), 2, example=images)(images).maps is None


def test_token_sequences_are_maps_too():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=6, img_size=32, depth=3)
    images = torch.randn(2, 3, 32, 32)
    output = branch(model, 2, "blocks.2", images, maps=True)(images)
    assert [tuple(each.shape) for each in output.maps] == [(2, 5, 192)] * 2


def test_trees_that_do_not_fit_are_refused():
    example = torch.zeros(2, 3, 16, 16)
    with pytest.raises(UserError, match="2 counts of branches and 1 splits"):
        branch(build("resnet8", 6), (2, 2), "layer3", example)
    with pytest.raises(UserError, match="'layer2' does not come after"):
        branch(build("resnet8", 6), (2, 2), ("layer3", "layer2"), example)
