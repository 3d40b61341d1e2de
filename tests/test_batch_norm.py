"""Batch norm over all processes: refused where there is one, and PyTorch's own where one process has all images."""

import pytest
import torch
from torch import nn

from coterie.errors import UserError
from coterie.methods import Vanilla
from coterie.training import TrainingOptions
from coterie.training.stages.batch_norm import sync_batch_norm
from toys import go


@pytest.fixture
def alone(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (nn.BatchNorm2d, (5, 3, 4, 2)),
        (nn.BatchNorm1d, (6, 3)),
        (lambda size: nn.BatchNorm2d(size, affine=False, momentum=None), (5, 3, 4, 2)),
        (lambda size: nn.BatchNorm2d(size, track_running_stats=False), (5, 3, 4, 2)),
    ],
)
def test_in_one_process_it_computes_what_pytorch_does(make, shape, alone):
    torch.manual_seed(0)
    ours, theirs = make(3).double(), make(3).double()
    x = torch.randn(shape, dtype=torch.float64)
    found = []
    for norm, joined in ((ours, True), (theirs, False)):
        images = x.clone().requires_grad_()
        for _ in range(2):
            if joined:
                with sync_batch_norm():
                    y = norm(images)
            else:
                y = norm(images)
            y.sin().sum().backward()
        found.append([y, images.grad, *(each.grad for each in norm.parameters()), *norm.buffers()])
    torch.testing.assert_close(*found)


def test_it_leaves_evaluation_and_other_functions_alone(alone):
    norm, x = nn.BatchNorm2d(3).eval(), torch.randn(4, 3, 2, 2)
    with sync_batch_norm():
        assert torch.equal(norm(x), nn.functional.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps) * 1)
    assert norm.num_batches_tracked == 0


def test_one_process_has_nothing_to_synchronise(digits, tmp_path):
    with pytest.raises(UserError, match="sync_batch_norm is for several processes, and this is one; leave it out"):
        go(Vanilla(network="resnet8"), digits, tmp_path / "run", sync_batch_norm=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="leave compile out"):
        TrainingOptions(sync_batch_norm=True, compile=True)
