"""Peak resident memory of training ResNet-32 with ONE on 50,000 resident CIFAR-sized images.

python benchmarks/memory.py            # half a minute; writes benchmarks/memory.json
"""

import json
import resource
from itertools import islice
from pathlib import Path

from coterie.files import write_text
from coterie.methods import One
from throughput import images, product

STEPS = 60


def main() -> None:
    """Train some steps, and write the peak of the process."""
    for _ in islice(product(One(network="resnet32"), images(50_000)), STEPS):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    result = {"command": "python benchmarks/memory.py", "steps": STEPS, "peak_resident_gb": round(peak, 2)}
    write_text(Path(__file__).with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    print(result)


if __name__ == "__main__":
    main()
