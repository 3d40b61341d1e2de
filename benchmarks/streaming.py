"""How fast large photographs are streamed: coterie, with and without its cache, against torchvision's ImageFolder.

    python benchmarks/streaming.py        # some minutes; writes benchmarks/streaming.json

Both give batches of 64 normalised images of 224x224, cropped and resized at random and mirrored, from JPEG files, with
as many workers. The photographs are made: waves and grain, quality 92, about as large in bytes as a camera's. An epoch
is timed whole, the start of its workers included; rounds are interleaved, and ratios are taken round by round.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from cells import surroundings

RESULTS = Path(__file__).with_suffix(".json")
BATCH, SIDE = 64, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_photographs(root: Path, count: int, size: tuple[int, int]) -> None:
    """JPEG files of two classes, as training and test images."""
    y, x = np.mgrid[: size[0], : size[1]]
    for index in range(count):
        generator = np.random.default_rng(index)
        waves = [np.sin(x / (40 + 9 * channel) + index) + np.cos(y / (60 - 9 * channel)) for channel in range(3)]
        pixels = 128 + 50 * np.stack(waves, 2) + generator.normal(0, 6, (*size, 3))
        folder = root / ("val" if index % 8 == 0 else "train") / ("cat" if index % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=92)
    for name in ("cat", "dog"):  # one of each to test on, at least
        (root / "val" / name).mkdir(parents=True, exist_ok=True)
        if not any((root / "val" / name).iterdir()):
            Image.new("RGB", (size[1], size[0])).save(root / "val" / name / "only.jpg")


def reference(root: Path, workers: int) -> Iterable[Any]:
    """What torchvision gives."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    steps = [
        transforms.RandomResizedCrop(SIDE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    folder = datasets.ImageFolder(str(root / "train"), transforms.Compose(steps))
    return (images for images, _ in DataLoader(folder, BATCH, shuffle=True, num_workers=workers))


def ours(data: Any, epoch: int) -> Iterable[Any]:
    """What coterie gives."""
    from coterie.data import training_batches

    return (batch.images for batch in training_batches(data, batch_size=BATCH, seed=0, stage=0, epoch=epoch))


def images_per_second(make: Callable[[], Iterable[Any]]) -> float:
    """Of a whole epoch."""
    started, count = time.perf_counter(), 0
    for images in make():
        count += len(images)
    return count / (time.perf_counter() - started)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=448)
    parser.add_argument("--size", type=int, nargs=2, default=(1200, 1600), help="height and width")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    import torch

    import coterie

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "photographs"
        os.environ["COTERIE_CACHE"] = str(Path(place) / "cache")
        make_photographs(root, arguments.images, tuple(arguments.size))
        options = {"root": root, "image_size": SIDE, "memory_gb": 0, "workers": arguments.workers}
        plain = coterie.data.load("folder", **options, cache_gb=0)
        kept = coterie.data.load("folder", **options)
        filling = images_per_second(lambda: ours(kept, 0))
        rows = []
        for number in range(arguments.rounds):
            row = {
                "ImageFolder": images_per_second(lambda: reference(root, arguments.workers)),
                "coterie": images_per_second(lambda: ours(plain, number)),  # noqa: B023
                "coterie, cached": images_per_second(lambda: ours(kept, number)),  # noqa: B023
            }
            rows.append(row)
            print({name: round(value, 1) for name, value in row.items()}, flush=True)
    found: dict[str, Any] = {
        "command": "python benchmarks/streaming.py",
        **{name: value for name, value in vars(arguments).items()},
        **surroundings("cpu"),
        "images_per_second": {name: round(median(row[name] for row in rows), 1) for name in rows[0]},
        "first epoch, filling the cache": round(filling, 1),
        "over ImageFolder": {
            name: {
                "median": round(median(row[name] / row["ImageFolder"] for row in rows), 2),
                "range": [round(pick(row[name] / row["ImageFolder"] for row in rows), 2) for pick in (min, max)],
            }
            for name in list(rows[0])[1:]
        },
    }
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
