"""What test_distribution.py runs in each of two processes: trainings into the folder that it is given."""

import sys
from pathlib import Path

import torch

import coterie
from coterie import cli
from coterie.methods import One
from coterie.training import Interrupted
from toys import Average, Mutual, go, plain


def stopped_and_resumed(toy, data, place, batch_size):
    """A run left alone, and one that the second process alone is told to stop: both must, and write one checkpoint."""
    go(toy(network="resnet8"), data, place / "whole", batch_size=batch_size)
    rank = torch.distributed.get_rank()
    try:
        go(toy(network="resnet8", stop=3 if rank == 1 else 1000), data, place / "cut", batch_size=batch_size)
    except Interrupted as stopped:
        (place / f"stopped{rank}").write_text(str(stopped))
    torch.distributed.barrier()
    if rank == 0:
        config = place / "cut" / "config.yaml"
        config.write_text(config.read_text().replace("stop: 1000", "stop: null"))
    torch.distributed.barrier()
    go(toy(network="resnet8"), data, place / "cut", resume=True, batch_size=batch_size)


def main(place: Path) -> None:
    torch.set_num_threads(1)
    digits = coterie.data.load("digits", train_samples=165, test_samples=101)
    go(One(network=plain(), at="1", gate="uniform"), digits, place / "plain", batch_size=40)
    stopped_and_resumed(Mutual, digits, place / "mutual", 33)
    stopped_and_resumed(Average, digits, place / "average", 50)
    options = ["--network", "resnet8", "--data", "digits", "--data.train_samples", "160", "--batch_size", "32"]
    cli.main(["train", *options, "--epochs", "2", "--out", str(place / "shell")])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
