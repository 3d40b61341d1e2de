"""How much of a CUDA card the training of a small network uses: captured steps, and many trainings at once.

    python benchmarks/captured.py            # a few minutes on a card; writes benchmarks/captured.json
    python benchmarks/captured.py --try      # a minute on a processor, where nothing is captured: tries the script

``steps``: images a second of ONE with three branches and of the network alone, batch 128, bf16, channels-last:
ResNet-32 at 32x32 and timm's resnet18 at 64x64. Sides, interleaved: the captured step replayed on one batch, without
data (``bare``); what ``coterie train --capture`` does, data included (``captured``); without capture (``eager``); and a
plain AMP loop with a DataLoader of PIL images and twelve workers (``plain``). ``together``: steps a second of so many
trainings of ResNet-8 at 16x16 in one process, each captured, against one after another, eager.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import coterie
from cells import surroundings
from coterie.console.progress import Reporter
from coterie.data import ImageData, Resident
from coterie.files import write_text
from coterie.losses import one
from coterie.methods import Method, One, Task, Vanilla
from coterie.networks import build
from coterie.peers import branch
from coterie.recipes import Recipe
from coterie.training.options import TrainingOptions
from coterie.training.stages import Setting, StageRun
from coterie.training.stages.capture import Recorder, record_graph
from coterie.training.together import Together

RESULTS = Path(__file__).with_suffix(".json")
CUDA = torch.cuda.is_available()
BATCH, CLASSES, MEAN, STD = 128, 10, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CASES = (("resnet32", 32), ("timm/resnet18", 64))


def images(count: int, size: int) -> ImageData:
    """Random colour images."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8))
    split = Resident(pixels, np.arange(count) % CLASSES)
    names = tuple(str(index) for index in range(CLASSES))
    few = split.subset(np.arange(min(count, 200)))
    return ImageData("random", names, (size, size), 3, MEAN, STD, split, few, None, "crop-flip", {})


def running(method: Method, data: ImageData, epochs: int = 100) -> StageRun:
    """A stage of ``coterie train``, as it is without capture."""
    torch.manual_seed(0)
    stage = next(method.stages(Task(CLASSES, 3, data.image_size, epochs=epochs)))
    options = TrainingOptions(batch_size=BATCH, precision="bf16")
    return StageRun(stage, 0, epochs, Setting(data, Accelerator(), Recipe(), options, Reporter(False)))


def capture(run: StageRun) -> Recorder:
    """Have a stage capture its step; on the processor its step stands in for the recording."""
    record = record_graph if CUDA else (lambda step, batch: partial(step, batch))
    recorder = Recorder(run.take_turns, run.optimisers, run.setting.accelerator.device, print, record)
    run.take_turns = recorder
    return recorder


def endless(run: StageRun) -> Iterator[None]:
    """Steps of one epoch after another, without what lies between epochs."""
    while True:
        yield from run.run_epoch()
        run.epoch, run.step = run.epoch + 1, 0
        run.meter.restart()


def bare(run: StageRun) -> Iterator[None]:
    """The captured step on one batch, again and again."""
    recorder = capture(run)
    for _ in islice(endless(run), 4):
        pass
    (shape,) = (each for each in recorder._shapes.values() if each.replay is not None)
    assert shape.replay is not None
    while True:
        shape.replay()
        yield


def captured(run: StageRun) -> Iterator[None]:
    """``coterie train --capture``, data included."""
    capture(run)
    return endless(run)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """The same images as PIL pictures with per-sample transforms."""

    def __init__(self, data: ImageData) -> None:
        assert isinstance(data.train, Resident)
        self.pictures = [Image.fromarray(pixels.numpy()) for pixels in data.train.data]
        self.labels = data.train.labels
        crop, flip = transforms.RandomCrop(data.image_size[0], padding=4), transforms.RandomHorizontalFlip()
        self.transform = transforms.Compose([crop, flip, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[index]), int(self.labels[index])


def plain(network: str, branches: int, data: ImageData, workers: int) -> Iterator[None]:
    """The loop that one would write at first, with AMP; yields after every step."""
    device, size = torch.device("cuda" if CUDA else "cpu"), data.image_size[0]
    net = build(network, CLASSES, image_size=(size, size))
    net = branch(net, branches, example=torch.zeros(2, 3, size, size)) if branches > 1 else net
    net = net.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    loader = DataLoader(
        Pictures(data), BATCH, shuffle=True, num_workers=workers, pin_memory=CUDA, persistent_workers=True
    )
    while True:
        for pictures, labels in loader:
            pictures = pictures.to(device, memory_format=torch.channels_last, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            optimiser.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                output = net(pictures)
                if branches > 1:
                    loss = one(output, labels).total
                else:
                    loss = torch.nn.functional.cross_entropy(output.float(), labels)
            loss.backward()
            optimiser.step()
            yield


def rate(steps: Iterator[None], count: int) -> float:
    """Images a second over so many steps, the device waited for at both ends."""
    _wait()
    started = time.perf_counter()
    for _ in islice(steps, count):
        pass
    _wait()
    return count * BATCH / (time.perf_counter() - started)


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def measure_steps(network: str, size: int, pairs: int, count: int, workers: int) -> dict[str, Any]:
    """Every side of one network, interleaved."""
    data = images(BATCH * 100, size)
    methods: dict[str, Callable[[], Method]] = {
        "one": partial(One, network=network),
        "alone": partial(Vanilla, network=network),
    }
    sides: dict[str, Iterator[None]] = {}
    for name, make in methods.items():
        for side, start in (("bare", bare), ("captured", captured), ("eager", endless)):
            sides[f"{name} {side}"] = start(running(make(), data))
        sides[f"{name} plain"] = plain(network, 3 if name == "one" else 1, data, workers)
    for steps in sides.values():
        rate(steps, 8)  # warm-up, and what captures
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(pairs):
        for name, steps in sides.items():
            rates[name].append(rate(steps, count))
    found: dict[str, Any] = {"network": network, "image_size": size}
    found["images_per_second"] = {name: _spread(values, 0) for name, values in rates.items()}
    for name in methods:
        for over in ("bare", "plain", "eager"):
            ratios = [a / b for a, b in zip(rates[f"{name} captured"], rates[f"{name} {over}"], strict=True)]
            found[f"{name}_captured_over_{over}"] = _spread(ratios, 3)
    ratios = [a / b for a, b in zip(rates["alone captured"], rates["one captured"], strict=True)]
    found["one_step_over_alone"] = _spread(ratios, 3)
    return found


def _spread(values: Sequence[float], digits: int) -> dict[str, float]:
    kinds: tuple[tuple[str, Callable[[Sequence[float]], float]], ...] = (("median", median), ("min", min), ("max", max))
    return {name: round(of(values), digits) for name, of in kinds}


def measure_together(trainings: int, epochs: int) -> dict[str, Any]:
    """Steps a second of trainings that take turns, and of four of them one after another."""
    data = images(64 * 24, 16)
    steps = epochs * 24
    train = partial(coterie.train, data=data, epochs=epochs, batch_size=64, test_every=epochs, progress=False)
    train = partial(train, precision="bf16" if CUDA else "fp32", recipe=Recipe())
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with Together() as together:
            futures = [
                together.submit(train, Vanilla(network="resnet8"), out=f"{folder}/{seed}", seed=seed, capture=CUDA)
                for seed in range(trainings)
            ]
            for future in futures:
                future.result()
        at_once = trainings * steps / (time.perf_counter() - started)
        started, few = time.perf_counter(), min(4, trainings)
        for seed in range(few):
            train(Vanilla(network="resnet8"), out=f"{folder}/alone{seed}", seed=seed)
        in_turn = few * steps / (time.perf_counter() - started)
    return {
        "trainings": trainings,
        "steps_each": steps,
        "together_steps_per_second": round(at_once, 1),
        "one_after_another_steps_per_second": round(in_turn, 1),
        "ratio": round(at_once / in_turn, 2),
    }


def main() -> None:
    """Measure, print, and write as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--try", dest="trial", action="store_true", help="few steps on a processor, nothing written")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=12, help="of the plain loop")
    parser.add_argument("--trainings", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=40, help="of the trainings at once")
    arguments = parser.parse_args()
    if not CUDA and not arguments.trial:
        raise SystemExit("there is no CUDA device here; --try tries the script")
    if arguments.trial:
        print(json.dumps(measure_steps("resnet8", 16, 1, 2, 1)))
        print(json.dumps(measure_together(3, 1)))
        return
    result: dict[str, Any] = {"command": "python benchmarks/captured.py", **surroundings("cuda"), "steps": []}
    result["together"] = measure_together(arguments.trainings, arguments.epochs)
    for network, size in CASES:
        print(json.dumps(result), flush=True)
        result["steps"].append(measure_steps(network, size, arguments.pairs, arguments.steps, arguments.workers))
        write_text(RESULTS, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
