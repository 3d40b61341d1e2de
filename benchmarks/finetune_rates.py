"""Which rates suit ``finetune``? Measured on a fifth of the training images of two folds of the solar cells.

    python benchmarks/finetune_rates.py --device cuda     # minutes; writes benchmarks/finetune_rates.json

EfficientNet-Lite0 at 128 pixels, 10 epochs, batches of 32, as in ``benchmarks/finetune.py``, whose held-out folds are
not looked at. A row is a training: the validation error of its last weights and of their average, in %. The rows in
the file were trained side by side, those of ``first_layer_rate`` 0.3 on a CPU, and these of fold 1 alone.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import coterie
from coterie.files import write_text
from coterie.methods import Vanilla
from coterie.networks import Backbone
from coterie.recipes import recipe_class

RESULTS = Path(__file__).with_suffix(".json")
FOLDS = (1, 2)
PRETRAINED = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_PEAKS = ((2.5e-4, 0.1), (2.5e-4, 1.0), (5e-4, 0.3), (5e-4, 1.0), (1e-3, 0.1), (1e-3, 0.3), (1e-3, 1.0))
RATES: list[tuple[str, dict[str, float]]] = [
    ("transformer", {}),
    *(("finetune", {"learning_rate": rate, "first_layer_rate": first}) for rate, first in _PEAKS),
    ("finetune", {"learning_rate": 1e-3, "first_layer_rate": 1.0, "label_smoothing": 0.0, "drop_path": 0.0}),
]


def train(root: Path, weights: Path, device: str, name: str, options: dict[str, float], fold: int) -> dict[str, Any]:
    """A row."""
    data = coterie.data.load(
        "folder",
        root=root / f"fold{fold}",
        image_size=128,
        channels=3,
        augment="random-resized-crop",
        validation=0.2,
        **PRETRAINED,
    )
    network = Backbone("timm/tf_efficientnet_lite0", weights=str(weights))
    with tempfile.TemporaryDirectory() as folder:
        run = coterie.train(
            Vanilla(network=network),
            data,
            recipe=recipe_class(name)(**options),
            out=Path(folder) / "run",
            epochs=10,
            batch_size=32,
            threads=1,
            device=device,
            test_every=10,
            progress=False,
        )
        last = run.metrics[-1]
    errors = {"validation_error": last["validation_error_target"]}
    errors["validation_error_average"] = last.get("validation_error_target-average")
    return {"recipe": name, **options, "fold": fold, **errors, "device": device}


def main() -> None:
    """Train, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/elpv"), help="holds fold1 and fold2")
    parser.add_argument("--weights", type=Path, default=Path("data/lite0.safetensors"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    rows = []
    for name, options in RATES:
        for fold in FOLDS:
            rows.append(train(arguments.root, arguments.weights, arguments.device, name, options, fold))
            print(rows[-1], flush=True)
    command = f"python benchmarks/finetune_rates.py --device {arguments.device}"
    write_text(RESULTS, json.dumps({"command": command, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
