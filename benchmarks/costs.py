"""What a whole training of each method costs, beside the network alone for as many epochs.

    python benchmarks/costs.py              # about two minutes on one core; writes benchmarks/costs.json

Every method has its default options and trains ResNet-20 on 3x32x32 images for two epochs a stage, teachers included.
FLOPs are counted while it runs, by the runner, as in every Run; they depend on no clock and on no other program. One
stage of `compact` is one epoch whatever the length, so that a longer training of it costs less than is said here.
`cost` counts parameters and the FLOPs of one image: of each deliverable, and of all that learns in the last stage
(`training`).
"""

import json
import tempfile
from pathlib import Path

import coterie
from coterie.files import write_text
from coterie.methods import METHODS
from coterie.recipes import Recipe

RESULTS = Path(__file__).with_suffix(".json")
NETWORK, IMAGES, BATCH, EPOCHS = "resnet20", 128, 32, 2


def main() -> None:
    """Train each method a little, and write what its card says."""
    data = coterie.data.load("digits", image_size=32, channels=3, train_samples=IMAGES, test_samples=100)
    rows: dict[str, dict] = {}
    for name, method in METHODS.items():
        with tempfile.TemporaryDirectory() as folder:
            run = coterie.train(
                method(network=NETWORK),
                data,
                recipe=Recipe(),
                epochs=EPOCHS,
                out=folder,
                batch_size=BATCH,
                progress=False,
            )
            card, default = run.card, run.card["deliverables"][0]
            rows[name] = {
                "training_flops": card["training_flops"],
                "over_alone": round(card["training_flops"] / rows.get("vanilla", card)["training_flops"], 2),
                "default": default,
                "cost": card["cost"],
            }
        print(name, json.dumps(rows[name]), flush=True)
    result = {"command": "python benchmarks/costs.py", "network": NETWORK, "image_size": 32, "methods": rows}
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
