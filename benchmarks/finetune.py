"""Is the recipe ``finetune`` better than ``transformer`` on photographs, from ImageNet weights? In five folds.

    python benchmarks/finetune.py --jobs 2          # trains what is missing in benchmarks/finetune.jsonl
    python benchmarks/finetune.py --report          # the table, and benchmarks/finetune.json

EfficientNet-Lite0 with the weights of ``benchmarks/efficientnet_lite0.py`` (``--weights``), solar cells at 128 pixels
with or without a defect of ``benchmarks/elpv.py`` (``--root``), ten epochs. Each fold is held out once, and looked at
once, at the end. Measured are the error and the balanced accuracy (the mean over the classes of the share told rightly)
on it; differences are paired by fold and seed. The folds share training images, which a paired t-test does not know:
its interval is somewhat too narrow.
"""

import argparse
import tempfile
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from cells import Cell, add_options, paired, publish, read_rows, run_cells, single_threaded, surroundings

RESULTS = Path(__file__).with_suffix(".jsonl")
SUMMARY = Path(__file__).with_suffix(".json")
NETWORK = "timm/tf_efficientnet_lite0"
RECIPES, FOLDS = ("transformer", "finetune"), (1, 2, 3, 4, 5)
SIZE = 128
MEASURES = ("error", "balanced_accuracy", "nll")


@cache
def load(root: Path, fold: int, augment: str) -> Any:
    """A fold, normalised as the weights want it; once in each process."""
    import coterie

    half = (0.5, 0.5, 0.5)
    where = root / f"fold{fold}"
    return coterie.data.load("folder", root=where, image_size=SIZE, channels=3, augment=augment, mean=half, std=half)


def train(cell: Cell, root: Path, weights: Path, device: str) -> dict[str, Any]:
    """What is measured of a cell."""
    import coterie
    from coterie.evaluation.predictions import measures
    from coterie.methods import Vanilla
    from coterie.networks.zoo import Backbone
    from coterie.recipes import recipe_class

    data = load(root, cell["fold"], cell["augment"])
    with tempfile.TemporaryDirectory() as folder:
        run = coterie.train(
            Vanilla(network=Backbone(NETWORK, weights=str(weights))),
            data,
            recipe=recipe_class(cell["recipe"])(),
            out=Path(folder) / "run",
            epochs=cell["epochs"],
            batch_size=cell["batch"],
            seed=cell["seed"],
            threads=1,
            device=device,
            test_every=cell["epochs"],
            progress=False,
        )
        logits, labels = answers(run, data)
        right = (logits.argmax(1) == labels).double()
        recalls = [right[labels == label].mean().item() for label in labels.unique()]
        figures = measures(logits, labels)
        row = {
            "recipe": run.config["recipe"],
            "delivered": run.card["deliverables"][0],
            "precision": run.config["precision"],
            "error": figures["error"],
            "balanced_accuracy": 100 * mean(recalls),
            "nll": figures["nll"],
            "errors": {name: of["error"] for name, of in run.card["test"].items()},
            "train_error_augmented": run.metrics[-1]["train_error_target"],
            "training_flops": run.card["training_flops"],
            "seconds": run.card["seconds"],
            **surroundings(device),
        }
        return {"says": f"error {row['error']:.2f} %, balanced accuracy {row['balanced_accuracy']:.2f} %", **row}


def answers(run: Any, data: Any) -> Any:
    """The delivered network's logits for the held-out fold, and its labels."""
    import torch

    from coterie.data import evaluation_batches
    from coterie.evaluation.predictions import predict_batches
    from coterie.outputs import answer

    network = run.network()
    with torch.no_grad():
        predictions = predict_batches(network, evaluation_batches(data, data.test))
    return answer(predictions), predictions.labels


def report() -> dict[str, Any]:
    """Levels of both recipes, and their paired differences."""
    rows = read_rows(RESULTS)
    levels, differences = [], []
    settings = dict.fromkeys((row["cell"]["epochs"], row["cell"]["batch"], row["cell"]["augment"]) for row in rows)
    for setting in settings:
        names = dict(zip(("epochs", "batch", "augment"), setting, strict=True))
        by_recipe: dict[str, dict[tuple[int, int], dict[str, Any]]] = {recipe: {} for recipe in RECIPES}
        for row in rows:
            if all(row["cell"][name] == value for name, value in names.items()):
                by_recipe[row["cell"]["recipe"]][row["cell"]["fold"], row["cell"]["seed"]] = row
        for recipe, some in by_recipe.items():
            figures = {name: round(mean(row[name] for row in some.values()), 3) for name in MEASURES if some}
            levels.append({**names, "recipe": recipe, "n": len(some), **figures})
        first, second = by_recipe["finetune"], by_recipe["transformer"]
        for name in MEASURES:
            found = paired(first[place][name] - second[place][name] for place in first if place in second)
            found["interval"] = str(found.get("interval", ""))
            differences.append({**names, "finetune - transformer": name, **found})
    return {"levels": levels, "differences": differences}


def main() -> None:
    """Train or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/elpv"), help="holds fold1 to fold5, or images")
    parser.add_argument("--weights", type=Path, default=Path("data/lite0.safetensors"))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--folds", nargs="+", type=int, choices=FOLDS, default=list(FOLDS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--augment", default="random-resized-crop")
    add_options(parser, seeds=1)
    arguments = parser.parse_args()
    if arguments.report:
        publish(report(), SUMMARY, "python benchmarks/finetune.py --report")
        return
    single_threaded()
    if not (arguments.root / "fold1").is_dir():
        from elpv import link

        link(arguments.root / "images", arguments.root)
    common = {"epochs": arguments.epochs, "batch": arguments.batch, "augment": arguments.augment}
    cells = [
        {**common, "recipe": recipe, "fold": fold, "seed": seed}
        for seed, fold, recipe in product(range(arguments.seeds), arguments.folds, arguments.recipes)
    ]
    run_cells(
        cells,
        partial(train, root=arguments.root, weights=arguments.weights, device=arguments.device),
        RESULTS,
        jobs=arguments.jobs,
        minutes=arguments.minutes,
        kind=lambda cell: str(cell["epochs"]),
    )


if __name__ == "__main__":
    main()
