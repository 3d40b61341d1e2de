"""Models whose forward changes with values, modes, shapes or counters: exact, or refused, but never silently wrong."""

import copy
import random

import pytest
import torch
from torch import nn
from torch.nn import functional

from coterie import UserError, branch
from coterie.networks.split.verify import run_split

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Toy(nn.Module):
    """A small network of blocks; subclasses change what lies between them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)) for _ in range(4))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x).relu()
        return self.fc(x.mean((2, 3)))


class OnValues(Toy):
    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x).relu() if x.mean() > 0 else x - block(x).relu()
        return self.fc(x.mean((2, 3)))


class SkipsBlocks(Toy):
    """Drops whole layers by Python's random numbers."""

    def forward(self, x):
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            if index in (1, 3) and self.training and random.random() < 0.5:
                continue
            x = functional.dropout(x + block(x), 0.1, self.training)
        return self.fc(x.mean((2, 3)))


class Counts(Toy):
    """Its output depends on how often it was called in training."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        x = self.stem(x) * (1 + self.calls)
        for block in self.blocks:
            x = x + block(x)
        return self.fc(x.mean((2, 3)))


class OnSize(Toy):
    """Chooses its path by the images' size and the size of the batch."""

    def forward(self, x):
        if x.shape[-1] % 3 == 0:
            x = functional.pad(x, (0, 1, 0, 1))
        x = self.stem(x)
        x = x / (len(x) if len(x) > 2 else 1)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


class AsksForNumbers(Toy):
    """A trace takes another path than the forward, and says nothing: what it sees of a size is no int."""

    def forward(self, x):
        x = self.stem(x)
        if isinstance(x.shape[-1], int) and x.shape[-1] > self.least:
            x = 2 * x
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))

    least = 0


class AsksOnLargeImages(AsksForNumbers):
    """The same, and wrong only at another size than the example's."""

    least = 20


class MakesTensors(Toy):
    """Positions, masks and noise, made where the images are; a buffer that it counts with; a rate that may change."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.linspace(0, 1, 64))
        self.register_buffer("seen", torch.zeros(()))
        self.rate = 0.2

    def forward(self, x):
        if self.training:
            self.seen.add_(1)
        assert self.table.numel() == self.table.shape[0] == 64
        rows = torch.arange(x.shape[2], device=x.device)
        x = self.stem(x) + self.table[rows][:, None] * torch.ones(x.shape[-1], device=x.device)
        for block in self.blocks:
            x = functional.dropout(block(x), self.rate, self.training)
        return self.fc(x.mean((2, 3)))


class SetsBuffer(Toy):
    """Puts a new tensor in a buffer's place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = self.seen + 1
        return super().forward(x * self.seen)


class Shares(Toy):
    """Uses one block twice, and one weight in two places."""

    def __init__(self):
        super().__init__()
        self.blocks[3] = self.blocks[2]
        self.blocks[1][0].weight = self.blocks[0][0].weight


class Distant(nn.Module):
    """A module that loops on values stands inside a model that can be traced."""

    def __init__(self):
        super().__init__()
        self.inner = OnValues()
        self.inner.fc = nn.Identity()
        self.middle = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.middle(self.inner(x)).relu())


def outcomes(model, forward, mode):
    """Logits, gradients and buffers after a forward, and a random number drawn after it."""
    model.train(mode).zero_grad()
    torch.manual_seed(3)
    random.seed(3)
    logits = forward(IMAGES)
    logits.square().sum().backward()
    return {
        "logits": [logits],
        "buffers": [buffer.clone() for buffer in model.buffers()],
        "random numbers": [torch.rand(1), torch.tensor(random.random())],
        "gradients": [torch.zeros(1) if p.grad is None else p.grad.clone() for p in model.parameters()],
    }


def same(model, net):
    for mode in (True, False):
        twin = copy.deepcopy(model)
        expected = outcomes(twin, twin, mode)
        got = outcomes(model, lambda images: run_split(model, net.splits, images), mode)
        for what, ours in got.items():
            for a, b in zip(ours, expected[what], strict=True):
                if what == "gradients" and net.splits.resists:  # summed in another order
                    torch.testing.assert_close(a, b)
                else:
                    assert torch.equal(a, b), what
    return True


@pytest.mark.parametrize(
    ("kind", "traced"),
    [
        (Toy, True),
        (MakesTensors, True),
        (Shares, True),
        (OnValues, False),
        (SkipsBlocks, False),
        (Counts, False),
        (OnSize, False),
    ],
)
def test_branch_zero_is_exactly_the_model(kind, traced):
    torch.manual_seed(0)
    model = kind()
    keys = list(model.state_dict())
    net = branch(model, 3, at="blocks.2", example=IMAGES)
    assert bool(net.splits.resists) is not traced
    assert same(model, net)
    assert list(model.state_dict()) == keys
    output = net(IMAGES)
    assert output.logits.shape == (2, 3, 5)
    assert output.features[0].shape == (2, 8)
    # Every branch learns in layers of its own, and in no other's.
    net.zero_grad()
    output.logits[:, 1].sum().backward()
    assert net.branches[0].get_submodule("fc").weight.grad is not None
    assert net.branches[0].get_submodule("blocks.2.0").weight.grad.abs().sum() > 0
    assert model.fc.weight.grad is None or not model.fc.weight.grad.any()
    assert model.stem.weight.grad.abs().sum() > 0


def test_a_counter_counts_every_forward_once():
    model = Counts()
    net = branch(model, 3, at="blocks.2", example=IMAGES)
    assert model.calls == 0
    net.train()
    net(IMAGES)
    net(IMAGES)
    assert model.calls == 2


def test_rates_switches_and_buffers_are_read_when_they_change():
    torch.manual_seed(0)
    model = MakesTensors()
    net = branch(model, 2, at="blocks.2", example=IMAGES)
    assert same(model, net)
    model.rate = 0.7
    model.table += 1
    assert same(model, net)


def test_tensors_made_in_the_forward_are_on_the_models_device():
    net = branch(MakesTensors(), 2, at="blocks.2", example=IMAGES).eval()
    net(IMAGES)
    net.to("meta")
    assert run_split(net.target, net.splits, IMAGES.to("meta")).device.type == "meta"


@pytest.mark.parametrize("kind", [Toy, MakesTensors, OnSize, OnValues])
def test_no_batch_and_no_image_size_is_frozen(kind):
    torch.manual_seed(0)
    model = kind()
    net = branch(model, 2, at="blocks.1", example=IMAGES).eval()
    for shape in ((1, 3, 16, 16), (5, 3, 12, 21), (3, 3, 33, 9)):
        images = torch.randn(shape)
        assert torch.equal(model(images), net(images).logits[:, 0])


def test_shared_weights_stay_shared_in_every_branch():
    net = branch(Shares(), 2, at="blocks.0", example=IMAGES)
    tail = net.branches[0]
    assert tail.get_submodule("blocks.0.0").weight is tail.get_submodule("blocks.1.0").weight
    assert tail.get_submodule("blocks.0.0").weight is not net.target.blocks[0][0].weight
    late = branch(Shares(), 2, at="blocks.2", example=IMAGES)
    assert [name for name, _ in late.branches[0].named_parameters()].count("blocks.2.0.weight") == 1


def test_what_resists_may_stand_whole_in_the_trunk_or_be_cut_inside():
    torch.manual_seed(0)
    model = Distant()
    assert not branch(model, 2, at="middle", example=IMAGES).splits.resists
    inside = branch(model, 2, at="inner.blocks.2", example=IMAGES)
    assert "OnValues ('inner'" in inside.splits.resists
    assert "test_branch_resist.py:" in inside.splits.resists
    assert same(model, inside)


class Lists(Toy):
    """Calls its layers behind its modules' back."""

    def __init__(self):
        super().__init__()
        self.steps = [self.stem, *self.blocks]

    def forward(self, x):
        for step in self.steps:
            x = step(x) if x.sum() != 0 else x
        return self.fc(x.mean((2, 3)))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(x.mean((2, 3))) if x.sum() > 0 else self.fc(x.amax((2, 3)))


@pytest.mark.parametrize(("model", "at"), [(Lists(), "blocks.2"), (Functional(), "fc")])
def test_what_cannot_be_cut_is_refused_by_name_file_and_line(model, at):
    with pytest.raises(
        UserError, match=rf"{type(model).__name__} cannot be split at {at}: .*py:\d+\) cannot be traced"
    ) as error:
        branch(model, 2, at=at, example=IMAGES)
    assert "\n" not in str(error.value)


class Drifts(Toy):
    """Remembers outside itself how often it was called."""

    calls = 0

    def forward(self, x):
        Drifts.calls += 1
        return super().forward(x) * Drifts.calls


def test_what_differs_from_itself_is_refused():
    with pytest.raises(UserError, match="Drifts split at blocks.2 has logits that differ by .* in training mode"):
        branch(Drifts(), 2, at="blocks.2", example=IMAGES)


def test_what_a_trace_gets_wrong_at_another_size_is_found():
    net = branch(AsksOnLargeImages(), 2, at="blocks.2", example=IMAGES)
    assert net.splits.resists.startswith("what is traced has logits that differ")
    assert "images 3x3x24x32" in net.splits.resists


class Sum(Toy):
    def forward(self, x):
        return super().forward(x).sum(), 0


def test_a_model_without_logits_is_refused():
    with pytest.raises(
        UserError, match=r"Sum returns a tuple with no tensor \(B, C\); say which they are with logits="
    ):
        branch(Sum(), 2, at="blocks.2", example=IMAGES)


def test_nothing_is_left_on_a_model_that_was_traced_or_replayed():
    for kind in (OnValues, Counts, MakesTensors):
        model = kind()
        before = {path: dict(vars(module)) for path, module in model.named_modules()}
        branch(model, 2, at="blocks.2", example=IMAGES)
        after = {path: dict(vars(module)) for path, module in model.named_modules()}
        assert {path: sorted(names) for path, names in before.items()} == {
            p: sorted(names) for p, names in after.items()
        }
        assert getattr(model, "calls", 0) == 0
