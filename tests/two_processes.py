"""What test_distribution.py runs in each of two processes: trainings into the folder that it is given."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import coterie
from coterie import cli
from coterie.methods import Kd, One, Pcl
from coterie.networks import Backbone
from coterie.networks.checkpointing import Blocks
from coterie.outputs import Batch
from coterie.recipes import Recipe
from coterie.training import Interrupted
from coterie.training.stages import memory
from toys import Average, Mutual, go, plain


def stopped_and_resumed(toy, data, place, batch_size, **more):
    """A run left alone, and one that the second process alone is told to stop: both must, and write one checkpoint."""
    more["batch_size"] = batch_size
    go(toy(network="resnet8"), data, place / "whole", **more)
    rank = torch.distributed.get_rank()
    try:
        go(toy(network="resnet8", stop=3 if rank == 1 else 1000), data, place / "cut", **more)
    except Interrupted as stopped:
        (place / f"stopped{rank}").write_text(str(stopped))
    torch.distributed.barrier()
    if rank == 0:
        config = place / "cut" / "config.yaml"
        config.write_text(config.read_text().replace("stop: 1000", "stop: null"))
    torch.distributed.barrier()
    go(toy(network="resnet8"), data, place / "cut", resume=True, **more)


def averaged(data, place):
    """PCL, whose moving averages run on each process's own share of a batch; they must be the same everywhere."""
    method, stages = Pcl(network="resnet8", num_branches=2), []
    build = method.stages
    method.stages = lambda task: (stages.append(stage) or stage for stage in build(task))
    go(method, data, place / "pcl", epochs=2)
    torch.save(stages[0].deliver["average"].state_dict(), place / f"average{torch.distributed.get_rank()}.pt")


class Full(nn.Module):
    """Runs out of memory in training, for more images than ``most``; in the second of two processes alone."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, logits):
        first = torch.distributed.is_initialized() and torch.distributed.get_rank() == 0
        if self.training and len(logits) > self.most and not first:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return logits


WRAPPERS = {"plain": {}, "static": {"static_graph": True}}


def branched(seed=0):
    """A branched network without what batch norm makes of a batch, and eight images with labels, for its gradients."""
    torch.manual_seed(seed)
    net = coterie.branch(coterie.networks.build("resnet8", 6), 3, example=torch.zeros(2, 3, 16, 16)).double().eval()
    generator = torch.Generator().manual_seed(0)
    return net, torch.randn(8, 3, 16, 16, generator=generator, dtype=torch.float64), torch.arange(8) % 6


def gradients(place):
    """A branched network in torch's own wrapper, every process with half of the images."""
    rank = torch.distributed.get_rank()
    for name, options in WRAPPERS.items():
        net, images, labels = branched(seed=rank)  # different weights in each, which the wrapper must make alike
        wrapped = DistributedDataParallel(net, **options)
        for _ in range(2):  # it is the second forward that complains of parameters without a gradient
            net.zero_grad()
            coterie.losses.one(wrapped(images[rank::2]), labels[rank::2]).total.backward()
        torch.save([parameter.grad for parameter in net.parameters()], place / f"gradients-{name}{rank}.pt")


def mixed():
    """A recipe that mixes most batches, whose partners may be the other process's images."""
    return Recipe(label_smoothing=0.1, mixup=0.4, cutmix=1.0, mix_probability=0.8)


# Options of ONE, a recipe, options of training: what has to train the same weights in two processes as in one.
CASES = {
    "plain": ({}, None),
    "mixed": ({}, mixed()),
    "ema": ({}, Recipe(average="ema", average_window=0.1, deliver="average")),
    "tail": ({}, Recipe(average="tail", average_window=0.6, deliver="average")),
    "dist": ({"divergence": "dist"}, None),
    "uneven": ({}, Recipe(sampling="balanced", class_weights="balanced")),
    "parts": ({}, Recipe(clip_norm=1.0), {"accumulate": 3}),
    "checkpointed": ({}, None),
    "synced": ({"gate": "relu-softmax"}, Recipe(learning_rate=0.02), {"sync_batch_norm": True}),
    "synced_parts": (
        {"gate": "relu-softmax"},
        Recipe(learning_rate=0.02),
        {"sync_batch_norm": True, "accumulate": 2, "train_samples": 160},
    ),
    "rates": ({}, Recipe(layer_rates={"0.*": 0.2, "4.*": 3.0}, first_layer_rate=0.5)),
    "odd": ({}, None, {"accumulate": 2, "batch_size": 79}),  # of the last seven images one process has three
    "frozen": ({}, None),
    "memory": ({}, None, {"accumulate": "auto"}),
    "patient": ({}, Recipe(learning_rate=1e-12, schedule="constant"), {"epochs": 5, "patience": 2}),
}


def blocks():
    """:func:`plain` with its layers computed again in the backward."""
    network = plain()
    return Backbone(nn.Sequential(network[0], Blocks(*network[1:3]), *network[3:]), checkpoint_activations=True)


def small():
    """:func:`plain` on a device whose memory does not hold what is kept for more than eight images."""
    return nn.Sequential(*plain(), Full(8))


def normed():
    """A network with batch norms, one of which is computed again in the backward."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, last = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)
        again = Blocks(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)))
        rest = nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return Backbone(nn.Sequential(first, again, *rest, last), checkpoint_activations=True)


def frozen():
    """:func:`plain` with its first layer frozen."""
    return Backbone(plain(), freeze="0.*")


NETWORKS = {"frozen": frozen, "checkpointed": blocks, "memory": small, "synced": normed, "synced_parts": normed}


_parts = Batch.parts


def parts_of_both(batch, count):
    """A batch in the parts that two processes compute at the same time, each of its own half of the images."""

    def joined(number, halves):
        views = tuple(torch.cat(both) for both in zip(*(half.views for half in halves), strict=True))
        labels, indices = (torch.cat([getattr(half, name) for half in halves]) for name in ("labels", "indices"))
        return Batch(views, labels, indices, batch.progress, number)

    first, second = (_parts(half, count) for half in _parts(batch, 2))
    return [joined(*each) for each in enumerate(zip(first, second, strict=True))]


def train_case(name, out):
    """A training whose batch norms, if any, are of all processes; the last batch is of few images."""
    options, recipe, *training = CASES[name]
    more = {"batch_size": 40} | (training[0] if training else {})
    if not torch.distributed.is_initialized():
        more.pop("sync_batch_norm", None)  # which is for several processes
    samples = {"train_samples": more.pop("train_samples", 165), "test_samples": 101}
    digits = coterie.data.load("digits", validation=0.2 if "patience" in more else 0.0, **samples)
    method = One(network=NETWORKS.get(name, plain)(), at="1", **{"gate": "uniform"} | options)
    with pytest.MonkeyPatch.context() as patch:
        if name == "synced_parts" and not torch.distributed.is_initialized():
            patch.setattr(Batch, "parts", parts_of_both)
        return go(method, digits, out, recipe=recipe, **more)


def gone_on(data, place):
    """A run, and one that goes on from it."""
    more = {"batch_size": 40, "recipe": Recipe(learning_rate=0.02)}
    first = go(One(network=plain(), at="1", gate="uniform"), data, place / "first", epochs=1, **more)
    more |= {"epochs": 2, "start_from": str(first.path)}
    return go(One(network=plain(), at="1", gate="uniform"), data, place / "second", **more)


def main(place: Path) -> None:
    torch.set_num_threads(1)
    memory.has_an_end = lambda device: True
    digits = coterie.data.load("digits", train_samples=165, test_samples=101)
    for name in CASES:
        train_case(name, place / name)
    stopped_and_resumed(Mutual, digits, place / "mutual", 33)
    stopped_and_resumed(Average, digits, place / "average", 50)
    stopped_and_resumed(Average, digits, place / "synced_average", 50, sync_batch_norm=True)
    averaged(digits, place)
    gone_on(digits, place / "gone_on")
    gradients(place)
    still = coterie.data.load("digits", train_samples=160, augment="none")
    go(Kd(network="resnet8"), still, place / "taught", epochs=1)
    options = ["--network", "resnet8", "--data", "digits", "--data.train_samples", "160", "--batch_size", "32"]
    cli.main(["train", *options, "--epochs", "2", "--out", str(place / "shell")])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
