"""The record of a forward's calls."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from coterie.networks import build
from coterie.networks.observe.calls import last_layer, record


class Mixed(nn.Module):
    """Every kind of operation that is counted."""

    def __init__(self):
        super().__init__()
        self.stem, self.up = nn.Conv2d(1, 8, 3, groups=1), nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2)
        self.dilated = nn.Conv2d(4, 4, 3, dilation=2, groups=4)
        self.plain, self.fc = nn.Linear(4, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x):
        x = self.plain(self.dilated(self.up(self.stem(x))).flatten(2).mT)
        return self.fc((x @ x.mT @ x).mean(1))


@pytest.mark.parametrize("network", [Mixed(), build("resnet8", 6, 1), build("densenet-bc-100-12", 6, 1)])
def test_flops_are_those_of_torchs_counter(network):
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    calls = record(network, images, flops=True)
    assert calls[-1].path == ""
    assert calls[-1].flops == counter.get_total_flops() > 0
    assert last_layer(calls).path == "fc"
    assert network.training


def test_attention_counts_on_every_device():
    class Attention(nn.Module):
        def forward(self, x):
            return functional.scaled_dot_product_attention(x, x[:, :, :5], x[:, :, :5, :4])

    assert record(Attention(), torch.randn(2, 3, 7, 8), flops=True)[-1].flops == 2 * 2 * 3 * 7 * 5 * (8 + 4)


def test_calls_know_what_is_around_and_before_them():
    network = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True)), nn.Flatten(), nn.Linear(72, 3))
    network.compile()
    calls = record(network, torch.randn(2, 1, 8, 8))
    assert [call.path for call in calls] == ["0.0", "0.1", "0", "1", "2", ""]
    assert [call.began for call in calls] == [0, 1, 0, 3, 4, 0]
    assert [[outer.path for outer in call.outer] for call in calls[:2]] == [["", "0"], ["", "0"]]
    assert [call.output_overwritten for call in calls] == [True, False, False, False, False, False]
    assert calls[1].input_overwritten
    assert network._compiled_call_impl is not None
    assert not any(module._forward_hooks for module in network.modules())


def test_branching_a_network_imports_no_compiler_and_no_library_of_networks():
    code = (
        "import sys, torch, coterie; from torch import nn; before = set(sys.modules)\n"
        "net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.Flatten(), nn.Linear(16, 3))\n"
        "net = coterie.branch(net, 2, example=torch.zeros(2, 1, 8, 8))\n"
        "coterie.losses.one(net(torch.randn(4, 1, 8, 8)), torch.zeros(4, dtype=torch.long)).total.backward()\n"
        "heavy = 'timm torchvision torch._dynamo sympy triton scipy torchmetrics accelerate matplotlib sklearn'\n"
        "print([name for name in heavy.split() if name in set(sys.modules) - before])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
