"""Is the recipe ``modern`` better than ``short`` at equal training FLOPs, for the network alone and for ONE?

    python benchmarks/modern.py --plan                    # cells, FLOPs, hours; trains nothing
    python benchmarks/modern.py --jobs 2                  # trains what is missing in benchmarks/modern.jsonl
    python benchmarks/modern.py --part ladder --jobs 2    # is it saturated? on a validation cut
    python benchmarks/modern.py --report                  # tables, and benchmarks/modern.json

Data (below ``--root``): ``glyphs`` (96 classes, 1,536 images at 16x16, tested on unseen typefaces), ``fashion-1500``
and ``fashion-10000`` (28x28), all by ``benchmarks/modern_data.py``; ``flags`` (168 classes, 1,512 images at 32x32,
tested on an unseen drawing), by ``benchmarks/flags.py``. Networks ResNet-8 and ResNet-20; the network alone and ONE
with three branches; recipes ``short`` and ``modern``; five seeds. A cell of a data set and a network costs the same
whatever the method and the recipe: ONE has as many epochs fewer as its step costs more, as coterie counts FLOPs. The
cost that was really counted stands in each line, those of averages' second look at the training images among them.

Parts: ``main`` is that; ``ablation`` takes one part at a time out of ``modern``, for the network alone, three seeds
(a part that ``modern`` does not have there is passed over); ``ladder`` trains the network alone for 1, 1.6 and 2.6
times as long, one seed, a fifth of the training images held out to look at.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cells import Cell, add_options, paired, publish, read_rows, run_cells, show, single_threaded, surroundings
from coterie.studies.statistics import holm

RESULTS = Path(__file__).with_suffix(".jsonl")
SUMMARY = Path(__file__).with_suffix(".json")
FLOPS = Path(__file__).with_name("modern_flops.json")
METHODS, RECIPES = ("vanilla", "one"), ("short", "modern")
FIRST = "modern-first"  # ``modern`` until its peak rate was four times as high and small networks' images unmixed
SEEDS, ABLATION_SEEDS = 5, 3
TOLERANCE = 0.01  # of equal FLOPs
LADDER, VALIDATION = (1.0, 1.6, 2.6), 0.2
TRAIN_LOOK = 1500  # training images of which the error is measured at the end, as they are
# What is taken out of ``modern``, one at a time.
PARTS: dict[str, dict[str, Any]] = {
    "label_smoothing": {"label_smoothing": 0.0},
    "cutmix": {"cutmix": 0.0},
    "mixup": {"mixup": 0.0},
    "policy": {"policy": "none"},
    "jitter": {"jitter": 0.0},
    "erasing": {"erasing": 0.0},
    "average": {"average": "none"},
}


@dataclass(frozen=True)
class Setup:
    """A data set, and how long the network alone is trained on it.

    Attributes:
        options: Of ``coterie.data.load``; the root is below ``--root``.
        batch: Images in a step.
        epochs: Of the network alone, by network.
    """

    options: dict[str, Any]
    batch: int
    epochs: dict[str, int]


DATA: dict[str, Setup] = {
    "glyphs": Setup(
        {"name": "folder", "root": "glyphs96", "image_size": 16, "channels": 1, "augment": "crop"},
        64,
        {"resnet8": 200, "resnet20": 120},
    ),
    "fashion-1500": Setup(
        {"name": "fashion_mnist", "root": "fashion10k", "train_samples": 1500, "download": False},
        64,
        {"resnet8": 120, "resnet20": 80},
    ),
    "fashion-10000": Setup(
        {"name": "fashion_mnist", "root": "fashion10k", "download": False}, 128, {"resnet8": 40, "resnet20": 31}
    ),
    "flags": Setup(
        {"name": "folder", "root": "flags", "channels": 3, "augment": "crop"}, 64, {"resnet8": 120, "resnet20": 80}
    ),
}
NETWORKS = ("resnet8", "resnet20")


# Cells ---------------------------------------------------------------------------------------------------------------


def plan(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The cells that were asked for, whole seeds first, so that a study that is cut short is balanced."""
    seeds = range(arguments.seeds or (1 if arguments.part == "ladder" else SEEDS))
    if arguments.part == "ablation":
        seeds = range(arguments.seeds or ABLATION_SEEDS)
    rows: list[dict[str, Any]] = []
    for seed, data, network in product(seeds, arguments.data, arguments.networks):
        cell = {"data": data, "network": network, "seed": seed, "scale": arguments.scale, "part": arguments.part}
        if arguments.part == "ablation":
            parts = arguments.without or list(PARTS)
            rows += [{**cell, "method": "vanilla", "recipe": "modern", "without": part} for part in parts]
        elif arguments.part == "ladder":
            rows += [
                {**cell, "method": "vanilla", "recipe": recipe, "scale": round(arguments.scale * step, 3)}
                for recipe, step in product(arguments.recipes, LADDER)
            ]
        else:
            rows += [
                {**cell, "method": method, "recipe": recipe}
                for method, recipe in product(arguments.methods, arguments.recipes)
            ]
    return rows


@cache
def load(root: Path, name: str, validation: float = 0.0) -> Any:
    """A data set; once in each process."""
    import coterie

    options = dict(DATA[name].options)
    there = {"root": root / options["root"]} if "root" in options else {}
    return coterie.data.load(**{**options, **there, "validation": validation})


def make(cell: Cell) -> tuple[Any, Any]:
    """The method and the recipe of a cell."""
    from coterie.methods import METHODS as BY_NAME
    from coterie.recipes import recipe_class

    method = BY_NAME[cell["method"]](network=cell["network"])
    kind = recipe_class(cell["recipe"])
    there = {field.name for field in fields(kind)}
    without = PARTS.get(cell.get("without", ""), {})
    return method, kind(**{name: value for name, value in without.items() if name in there})


def flops_of_step(root: Path, data: str, network: str, method: str) -> float:
    """Training FLOPs of an image, counted by coterie in one step; kept in a file."""
    known = json.loads(FLOPS.read_text()) if FLOPS.is_file() else {}
    name = f"{data} {network} {method}"
    if name not in known:
        import coterie

        images = load(root, data)
        few = replace(images, train=images.train.subset(_first(64)), test=images.test.subset(_first(64)))
        made, recipe = make({"network": network, "method": method, "recipe": "short"})
        with tempfile.TemporaryDirectory() as folder:
            run = coterie.train(made, few, recipe=recipe, epochs=1, batch_size=64, out=folder, progress=False)
            known[name] = run.card["training_flops"] / 64
        FLOPS.write_text(json.dumps(known, indent=1) + "\n")
    return known[name]


def _first(count: int) -> Any:
    import numpy as np

    return np.arange(count)


def epochs_of(root: Path, cell: Cell) -> int:
    """As many as cost what the network alone costs in its epochs, to a hundredth."""
    alone = round(DATA[cell["data"]].epochs[cell["network"]] * cell["scale"])
    once, own = (flops_of_step(root, cell["data"], cell["network"], name) for name in ("vanilla", cell["method"]))
    epochs = max(1, round(alone * once / own))
    if abs(epochs * own / (alone * once) - 1) > TOLERANCE:
        raise SystemExit(f"{epochs} epochs do not cost what {alone} of the network alone do: {dict(cell)}")
    return epochs


# Training ------------------------------------------------------------------------------------------------------------


def train(cell: Cell, epochs: int, root: Path, device: str) -> dict[str, Any] | None:
    """What is measured of a cell; None where ``modern`` does not have the part that is to be taken out."""
    import coterie

    if "without" in cell and not part_is_there(cell):
        print(f"modern has no {cell['without']} here: {cell}", flush=True)
        return None
    ladder = cell["part"] == "ladder"
    data = load(root, cell["data"], VALIDATION if ladder else 0.0)
    method, recipe = make(cell)
    with tempfile.TemporaryDirectory() as folder:
        run = coterie.train(
            method,
            data,
            recipe=recipe,
            out=Path(folder) / "run",
            epochs=epochs,
            batch_size=DATA[cell["data"]].batch,
            seed=cell["seed"],
            threads=1,
            device=device,
            test_every=epochs,
            progress=False,
        )
        return measured(run, data, device, epochs, ladder)


def measured(run: Any, data: Any, device: str, epochs: int, ladder: bool) -> dict[str, Any]:
    """The line of a finished Run."""
    card, config, last = run.card, run.config, run.metrics[-1]
    default = card["deliverables"][0]
    figures = card["test"]
    row = {
        "says": f"{figures[default]['error']:.2f} %",
        "recipe": config["recipe"],
        "epochs": epochs,
        "batch": config["batch_size"],
        "precision": config["precision"],
        "training_flops": card["training_flops"],
        "seconds": card["seconds"],
        "delivered": default,
        "error": figures[default]["error"],
        "nll": figures[default]["nll"],
        "errors": {name: figures[name]["error"] for name in figures},
        "nlls": {name: figures[name]["nll"] for name in figures},
        "train_error_augmented": {
            name.removeprefix("train_error_"): value for name, value in last.items() if name.startswith("train_error_")
        },
        **surroundings(device),
    }
    if ladder:
        row["validation"] = {
            name.removeprefix("validation_"): value for name, value in last.items() if name.startswith("validation_")
        }
    else:
        row["train_error"] = train_error(run, data)
    return row


def train_error(run: Any, data: Any) -> float:
    """Of what is delivered, on training images as they are: all, or 1,500 evenly spaced ones."""
    import numpy as np

    from coterie.data import evaluation_batches
    from coterie.evaluation.predictions import measures, predict_batches
    from coterie.outputs import answer

    count = len(data.train)
    images = data.train.subset(np.linspace(0, count - 1, min(count, TRAIN_LOOK)).round().astype(np.int64))
    predictions = predict_batches(run.network(), evaluation_batches(data, images))
    return measures(answer(predictions), predictions.labels)["error"]


def part_is_there(cell: Cell) -> bool:
    """Whether ``modern`` as it settled, here, for as long, has the part; yes where nobody has trained it yet."""
    like = ("data", "network", "scale")
    for row in read_rows(RESULTS):
        other = row["cell"]
        if (other["part"], other["recipe"], other["method"]) == ("main", "modern", "vanilla") and all(
            other[name] == cell[name] for name in like
        ):
            part, settled = PARTS[cell["without"]], row["recipe"]
            mixed = settled.get("mix_probability") or not part.keys() & {"cutmix", "mixup"}
            return bool(mixed) and any(settled.get(name) != value for name, value in part.items())
    return True


# Report --------------------------------------------------------------------------------------------------------------


def report() -> dict[str, Any]:
    """Paired differences of the finished cells."""
    rows = read_rows(RESULTS)
    main = [row for row in rows if row["cell"]["part"] == "main"]
    groups = list(dict.fromkeys((c["data"], c["network"], c["scale"]) for c in (row["cell"] for row in main)))
    names = ("errors", "modern - short", "modern - modern-first", "one - vanilla", "ablation")
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for data, network, scale in groups:
        there = {"data": data, "network": network, "scale": scale}
        pick = partial(errors, rows, **there)
        for method, recipe in product(METHODS, (*RECIPES, FIRST)):
            some = [row for row in main if matches(row, **there, method=method, recipe=recipe)]
            if some:
                tables["errors"].append({**there, "method": method, "recipe": recipe, **level(some)})
        for method in METHODS:
            pair = [pick(part="main", method=method, recipe=recipe) for recipe in ("modern", "short")]
            both = {"short": level_of(pair[1], pair[0]), "modern": level_of(pair[0], pair[1])}
            tables["modern - short"].append({**there, "method": method, **both, **compared(*pair)})
            pair = [pick(part="main", method=method, recipe=recipe) for recipe in ("modern", FIRST)]
            tables["modern - modern-first"].append({**there, "method": method, **compared(*pair)})
        for recipe in RECIPES:
            pair = [pick(part="main", method=method, recipe=recipe) for method in ("one", "vanilla")]
            tables["one - vanilla"].append({**there, "recipe": recipe, **compared(*pair)})
        for recipe, part in product(("modern", FIRST), PARTS):
            whole = pick(part="main", method="vanilla", recipe=recipe)
            without = pick(part="ablation", without=part, recipe=recipe)
            if without:
                tables["ablation"].append({**there, "recipe": recipe, "without": part, **compared(without, whole)})
    tables["ladder"] = [
        {
            **{name: row["cell"][name] for name in ("data", "network", "recipe", "scale", "seed")},
            "epochs": row["epochs"],
            **{name: round(value, 3) for name, value in row["validation"].items() if "error" in name},
            "test_error": round(row["error"], 2),
        }
        for row in sorted(rows, key=lambda row: str(sorted(row["cell"].items())))
        if row["cell"]["part"] == "ladder"
    ]
    found = {name: [row for row in table if row.get("n", 1)] for name, table in tables.items()}
    tested = [row for row in found["modern - short"] if "p" in row]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = round(p, 4)
    return found


def matches(row: dict[str, Any], **cell: Any) -> bool:
    """Whether a finished cell is such a one."""
    return all(row["cell"].get(name) == value for name, value in cell.items())


def errors(rows: Sequence[dict[str, Any]], **cell: Any) -> dict[int, float]:
    """Test errors by seed."""
    return {row["cell"]["seed"]: row["error"] for row in rows if matches(row, **cell)}


def compared(first: dict[int, float], second: dict[int, float]) -> dict[str, Any]:
    """The first minus the second, of the seeds that both have."""
    result = paired(first[seed] - second[seed] for seed in first if seed in second)
    result["interval"] = str(result.get("interval", ""))
    return result


def level_of(some: dict[int, float], others: dict[int, float]) -> float | None:
    """The mean of those that have a seed in common with the others."""
    found = [error for seed, error in some.items() if seed in others]
    return round(mean(found), 2) if found else None


def markdown(table: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of "modern - short" as the guide to training has them."""
    lines = []
    for row in table:
        who = {"vanilla": "alone", "one": "ONE"}[row["method"]]
        interval = json.loads(row["interval"] or "[]")
        spread = f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else ""
        p = f"{row['p_holm']:.3f}" if "p_holm" in row else "–"
        means = f"{row['short']:.1f} | {row['modern']:.1f} | {row['mean']:.1f}{spread}"
        lines.append(f"| {row['data']} | {row['network']}, {who} | {means} | {p} | {row['n']} |")
    return lines


def level(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds."""
    found = [row["error"] for row in rows]
    return {
        "n": len(rows),
        "error": round(mean(found), 2),
        "std": round(stdev(found), 2) if len(found) > 1 else None,
        "nll": round(mean(row["nll"] for row in rows), 3),
        "train_error": round(mean(row["train_error"] for row in rows), 2),
        "epochs": rows[0]["epochs"],
        "tflop": round(mean(row["training_flops"] for row in rows) / 1e12, 2),
        "seconds": round(mean(row["seconds"] for row in rows), 1),
        "delivered": "/".join(sorted({row["delivered"] for row in rows})),
    }


# Command -------------------------------------------------------------------------------------------------------------


def print_plan(cells: Sequence[Cell], root: Path, gflops: float) -> None:
    """How many cells there are and what they cost."""
    done = {json.dumps(row["cell"], sort_keys=True) for row in read_rows(RESULTS)}
    kinds: dict[tuple[str, ...], dict[str, Any]] = {}
    for cell in cells:
        setup, images = DATA[cell["data"]], load(root, cell["data"])
        epochs = epochs_of(root, cell)
        count = len(images.train) * (1 - VALIDATION if cell["part"] == "ladder" else 1)
        flops = epochs * count * flops_of_step(root, cell["data"], cell["network"], cell["method"])
        name = (cell["data"], cell["network"], cell["method"], cell["recipe"], str(cell["scale"]))
        row = kinds.setdefault(
            name,
            dict(zip(("data", "network", "method", "recipe", "scale"), name, strict=True))
            | {"cells": 0, "done": 0, "epochs": epochs, "steps": epochs * -(-int(count) // setup.batch), "tflop": 0.0},
        )
        row["cells"] += 1
        row["done"] += json.dumps(cell, sort_keys=True) in done
        row["tflop"] += flops / 1e12
    for row in kinds.values():
        row["tflop_each"] = row["tflop"] / row["cells"]
        row["core_hours"] = row["tflop"] * 1e3 / gflops / 3600
    show(list(kinds.values()))
    total = sum(row["tflop"] for row in kinds.values())
    print(
        f"{len(cells)} cells, {sum(row['done'] for row in kinds.values())} of them there; {total:.0f} TFLOP, "
        f"{total * 1e3 / gflops / 3600:.1f} core-hours at {gflops:.0f} GFLOP/s a core"
    )


def main() -> None:
    """Plan, train or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("main", "ablation", "ladder"), default="main")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--without", nargs="+", choices=PARTS, help="parts to take out, of --part ablation")
    parser.add_argument("--scale", type=float, default=1.0, help="of the epochs of every cell")
    parser.add_argument("--root", type=Path, default=Path("data"))
    add_options(parser, gflops=80.0)
    arguments = parser.parse_args()
    if arguments.report:
        found = report()
        publish(found, SUMMARY, "python benchmarks/modern.py --report")
        print("", *markdown(found["modern - short"]), sep="\n")
        return
    single_threaded()
    cells = plan(arguments)
    if arguments.plan:
        print_plan(cells, arguments.root, arguments.gflops)
        return
    # Counted once, before there are several processes.
    epochs = {json.dumps(cell, sort_keys=True): epochs_of(arguments.root, cell) for cell in cells}
    run_cells(
        cells,
        partial(_train, epochs=epochs, root=arguments.root, device=arguments.device),
        RESULTS,
        jobs=arguments.jobs,
        minutes=arguments.minutes,
        kind=lambda cell: " ".join(str(cell[name]) for name in ("data", "network", "method", "scale")),
    )


def _train(cell: Cell, epochs: dict[str, int], root: Path, device: str) -> dict[str, Any] | None:
    return train(cell, epochs[json.dumps(cell, sort_keys=True)], root, device)


if __name__ == "__main__":
    main()
