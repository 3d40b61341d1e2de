"""Images in a forward that measures, on a CPU: python benchmarks/evaluation_batches.py → evaluation_batches.json.

Images a second of a network in evaluation mode, in batches of 16 to 256, in turn, the median of three rounds; and which
share of the seconds in batches of 256 was the system's, clearing pages of memory.
"""

import json
import resource
import time
from pathlib import Path
from statistics import median

import torch

import coterie
from coterie.studies.pools import describe_machine

RESULTS = Path(__file__).with_suffix(".json")
SIZES, ROUNDS = (16, 32, 64, 128, 256), 3
# Network, side of the images.
CASES = (
    ("resnet8", 28),
    ("resnet32", 32),
    ("timm/resnet18", 64),
    ("timm/tf_efficientnet_lite0", 64),
    ("timm/tf_efficientnet_lite0", 128),
)


def measure(name: str, side: int) -> dict[str, object]:
    """Images a second by batch size."""
    network = coterie.networks.build(name, num_classes=10, in_channels=3, image_size=(side, side)).eval()
    images = torch.randn(256, 3, side, side)
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    of_system = []
    with torch.inference_mode():
        for turn in range(ROUNDS + 1):
            for size in SIZES:
                before, started = resource.getrusage(resource.RUSAGE_SELF).ru_stime, time.perf_counter()
                for batch in torch.split(images, size):
                    network(batch)
                taken = time.perf_counter() - started
                if turn:  # the first one chooses kernels
                    seconds[size].append(taken)
                    if size == SIZES[-1]:
                        of_system.append((resource.getrusage(resource.RUSAGE_SELF).ru_stime - before) / taken)
    rates = {str(size): round(len(images) / median(each), 1) for size, each in seconds.items()}
    return {"network": name, "side": side, "images a second": rates, "system's share": round(median(of_system), 2)}


def main() -> None:
    """Measure all cases with one thread."""
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        rows.append(measure(*case))
        print(json.dumps(rows[-1]), flush=True)
    head = {"machine": describe_machine(), "torch": torch.__version__}
    RESULTS.write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
