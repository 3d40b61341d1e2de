"""What do few steps in an epoch do to a training, of the network alone and of ONE?

    python benchmarks/small_batches.py --jobs 2     # trains what is missing in benchmarks/small_batches.jsonl
    python benchmarks/small_batches.py --report     # the table, and benchmarks/small_batches.json

timm's resnet10t on 500 whole and 500 defective solar cells of ``benchmarks/elpv.py`` (``--root``) at 64 pixels, 720 of
which are trained on; the recipe ``modern``, 15 epochs, in batches of 128 and of 32. Measured are the errors of the
last weights on the training images as they are augmented and on the test images, in %, and the highest mean loss of an
epoch over the first one's.
"""

import argparse
import random
import tempfile
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from cells import Cell, add_options, publish, read_rows, run_cells, single_threaded, surroundings

RESULTS = Path(__file__).with_suffix(".jsonl")
SUMMARY = Path(__file__).with_suffix(".json")
METHODS, BATCHES, EPOCHS, SIZE, OF_EACH = ("vanilla", "one"), (128, 32), 15, 64, 500


def draw(root: Path, out: Path) -> Path:
    """So many images of each class, made small; the same ones every time."""
    from PIL import Image

    for folder in sorted(each for each in (root / "images").iterdir() if each.is_dir()):
        files = sorted(folder.glob("*.png"))
        random.Random(0).shuffle(files)
        (out / folder.name).mkdir(parents=True)
        for file in files[:OF_EACH]:
            small = Image.open(file).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
            small.save(out / folder.name / file.name)
    return out


def train(cell: Cell, root: Path, device: str) -> dict[str, Any]:
    """What is measured of a cell."""
    import coterie
    from coterie.methods import METHODS as BY_NAME

    with tempfile.TemporaryDirectory() as folder:
        data = coterie.data.load("folder", root=draw(root, Path(folder) / "images"), validation=0.1)
        run = coterie.train(
            BY_NAME[cell["method"]](network="timm/resnet10t"),
            data,
            out=Path(folder) / "run",
            epochs=EPOCHS,
            batch_size=cell["batch"],
            seed=cell["seed"],
            threads=1,
            device=device,
            test_every=EPOCHS,
            progress=False,
        )
        rows = run.metrics
        figures = {"train_error": rows[-1]["train_error_target"], "test_error": rows[-1]["test_error_target"]}
        figures["loss_over_first"] = max(float(row["loss"]) for row in rows) / float(rows[0]["loss"])
        return {
            "says": f"training error {figures['train_error']:.1f} %",
            **figures,
            "seconds": run.card["seconds"],
            **surroundings(device),
        }


def report() -> dict[str, Any]:
    """Every training, and their means."""
    rows = read_rows(RESULTS)
    names = ("train_error", "test_error", "loss_over_first")
    table = []
    for method, batch in product(METHODS, BATCHES):
        own = [row for row in rows if (row["cell"]["method"], row["cell"]["batch"]) == (method, batch)]
        if own:
            figures = {name: round(mean(row[name] for row in own), 2) for name in names}
            errors = ", ".join(f"{row['train_error']:.1f}" for row in own)
            table.append({"method": method, "batch": batch, "n": len(own), **figures, "train_errors": errors})
    return {"few steps": table}


def main() -> None:
    """Train or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/elpv"), help="holds images/")
    add_options(parser, seeds=4)
    arguments = parser.parse_args()
    if arguments.report:
        publish(report(), SUMMARY, "python benchmarks/small_batches.py --report")
        return
    single_threaded()
    cells = [
        {"seed": seed, "method": method, "batch": batch}
        for seed, method, batch in product(range(arguments.seeds), METHODS, BATCHES)
    ]
    run_cells(
        cells,
        partial(train, root=arguments.root, device=arguments.device),
        RESULTS,
        jobs=arguments.jobs,
        minutes=arguments.minutes,
        kind=lambda cell: f"{cell['method']} {cell['batch']}",
    )


if __name__ == "__main__":
    main()
