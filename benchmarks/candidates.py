"""Which training gives the best network of a size at equal training FLOPs? Candidates, judged on validation images.

    python benchmarks/candidates.py --plan               # cells, epochs, FLOPs, hours; trains nothing
    python benchmarks/candidates.py --jobs 2             # trains what is missing in benchmarks/candidates.jsonl
    python benchmarks/candidates.py --report             # tables, and benchmarks/candidates.json

Data are those of ``benchmarks/modern.py``. A fifth of the training images is held out, another one for each seed, and
judges; the test images decide nothing here. A fifth of 1,500 images tells little: ``other-glyphs`` are 96 characters
that ``glyphs`` has not, drawn alike and judged by 2,880 images of their own, and ``fashion-8500`` trains on 1,500 of
the 10,000 images and holds out the others. Every cell of a data set, a network and a scale costs what the network alone
costs in its epochs, teachers counted, to a hundredth or half an epoch. All arms have the recipe ``modern`` unless their
name says otherwise. Its optimiser, its peak rates and from when on images are mixed were chosen by these cells.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cells import Cell, add_options, paired, publish, read_rows, run_cells, show, single_threaded, surroundings
from modern import DATA as MODERN_DATA
from modern import Setup

RESULTS = Path(__file__).with_suffix(".jsonl")
SUMMARY = Path(__file__).with_suffix(".json")
COSTS = Path(__file__).with_name("candidates_flops.json")
TOLERANCE = 0.01
VALIDATION = 0.2
SCALES = (1.0, 2.6, 6.6)
OTHER_EPOCHS = 40  # of networks of which ``benchmarks/modern.py`` says nothing


@dataclass(frozen=True)
class Arm:
    """A training.

    Attributes:
        method: Name of the method, and its options.
        shares: Stage to its share of the budget; one stage has all of it.
        recipe: Name of the recipe, and fields of it.
    """

    method: dict[str, Any]
    shares: dict[str, float] = field(default_factory=lambda: {"train": 1.0})
    recipe: dict[str, Any] = field(default_factory=lambda: {"name": "modern"})


def alone(**fields: Any) -> Arm:
    """The network alone, with fields of ``modern`` that are set."""
    return Arm({"name": "vanilla"}, recipe={"name": "modern", **fields})


def taught(share: float, **options: Any) -> Arm:
    """KD from a teacher that is trained on a share of the budget."""
    return Arm({"name": "kd", **options}, {"teacher": share, "student": 1 - share})


DATA = MODERN_DATA | {
    "digits": Setup({"name": "digits"}, 128, {"resnet8": 20}),
    "other-glyphs": replace(
        MODERN_DATA["glyphs"], options={**MODERN_DATA["glyphs"].options, "root": "glyphs96-others"}
    ),
    "fashion-8500": replace(MODERN_DATA["fashion-1500"], options=MODERN_DATA["fashion-10000"].options),
}
HELD_OUT = {"other-glyphs": 0.0, "fashion-8500": 0.85}  # else VALIDATION

# The recipe is what was searched; rates are as the optimiser gets them.
ARMS: dict[str, Arm] = {
    "alone": alone(),
    "short": Arm({"name": "vanilla"}, recipe={"name": "short"}),
    **{
        f"rate-{rate}": alone(learning_rate=rate, mix_probability=0.0)
        for rate in (0.07, 0.141421, 0.2, 0.28, 0.56, 0.8, 1.13)
    },
    **{
        f"rate-{rate}-decay-{decay}": alone(learning_rate=rate, weight_decay=decay, mix_probability=0.0)
        for rate, decay in product((0.141421, 0.56), (1e-4, 1e-3, 2e-3))
    },
    **{f"rate-{rate}-mixed": alone(learning_rate=rate, mix_probability=0.5) for rate in (0.141421, 0.56)},
    "rate-0.141421-smoothing-0": alone(learning_rate=0.141421, label_smoothing=0.0, mix_probability=0.0),
    **{
        f"rate-0.141421-policy-{strength}": alone(
            learning_rate=0.141421, policy="trivial-augment", policy_strength=strength, mix_probability=0.0
        )
        for strength in (0.3, 1.0)
    },
    "rate-0.141421-erasing-0.25": alone(learning_rate=0.141421, erasing=0.25, mix_probability=0.0),
    # For networks without batch norms.
    **{
        f"adamw-{rate}": alone(optimiser="adamw", learning_rate=rate, weight_decay=0.05, mix_probability=0.0)
        for rate in (0.00025, 0.0005, 0.001, 0.002)
    },
    **{
        f"adamw-{rate}-clipped": alone(
            optimiser="adamw", learning_rate=rate, weight_decay=0.05, clip_norm=1.0, mix_probability=0.0
        )
        for rate in (0.0005, 0.001)
    },
    "one": Arm({"name": "one"}),
    **{
        f"one-rate-{rate}": Arm(
            {"name": "one"}, recipe={"name": "modern", "learning_rate": rate, "mix_probability": 0.0}
        )
        for rate in (0.141421, 0.28, 0.56)
    },
    "kd-resnet20": taught(0.4, teacher_network="resnet20"),
    "kd-itself": taught(0.4),
    "kd-itself-dist": taught(0.4, divergence="dist"),
    **{
        f"flat-{rho}-{share}": Arm({"name": "flat", "rho": rho, "share": share})
        for rho, share in ((0.05, 1.0), (0.2, 1.0), (0.05, 0.25), (0.1, 0.25))
    },
    # As many images in a step as alone has, and alone's rate.
    **{
        f"views-2-{pull}": Arm(
            {"name": "flat", "rho": 0.0, "num_views": 2, "pull": pull},
            recipe={"name": "modern", "learning_rate": 0.566},
        )
        for pull in (0.0, 1.0)
    },
}


def make(arm: str, network: str, epochs: dict[str, int]) -> tuple[Any, Any]:
    """The method and the recipe of an arm."""
    from candidate_methods import Flat
    from coterie.methods import METHODS
    from coterie.recipes import recipe_class

    options, recipe = dict(ARMS[arm].method), dict(ARMS[arm].recipe)
    kinds = {**METHODS, Flat.name: Flat}
    method = kinds[options.pop("name")](network=network, epochs=epochs, **options)
    return method, recipe_class(recipe.pop("name"))(**recipe)


# Costs ---------------------------------------------------------------------------------------------------------------


@cache
def costs(root: Path, data: str, network: str, arm: str) -> dict[str, float]:
    """Training FLOPs of an image by stage, counted by coterie in one step each; kept in a file."""
    known = json.loads(COSTS.read_text()) if COSTS.is_file() else {}
    name = f"{data} {network} {' '.join(map(str, ARMS[arm].method.values()))}"  # a recipe costs nothing here
    if name not in known:
        import numpy as np

        import coterie

        images = held_out(root, data, 0)
        few = np.arange(64)
        small = replace(images, train=images.train.subset(few), test=images.test.subset(few))
        method, recipe = make(arm, network, dict.fromkeys(ARMS[arm].shares, 1))
        with tempfile.TemporaryDirectory() as folder:
            run = coterie.train(
                method, small, recipe=recipe, epochs=1, batch_size=64, out=Path(folder) / "run", progress=False
            )
            known[name] = {row["stage"]: row["training_flops"] / 64 for row in run.metrics}
        COSTS.write_text(json.dumps(known, indent=1) + "\n")
    return known[name]


@cache
def epochs_of(root: Path, data: str, network: str, arm: str, scale: float) -> dict[str, int]:
    """Epochs of each stage, so that all cost what the network alone costs in its epochs."""
    alone_epochs = DATA[data].epochs.get(network, OTHER_EPOCHS)
    budget = alone_epochs * scale * costs(root, data, network, "alone")["train"]
    own, shares = costs(root, data, network, arm), ARMS[arm].shares
    *earlier, last = shares
    epochs = {stage: max(1, round(budget * shares[stage] / own[stage])) for stage in earlier}
    left = budget - sum(epochs[stage] * own[stage] for stage in earlier)
    epochs[last] = max(1, round(left / own[last]))
    total = sum(epochs[stage] * own[stage] for stage in shares)
    if abs(total - budget) > max(TOLERANCE * budget, own[last] / 2):
        raise SystemExit(f"{arm} at {scale}: {epochs} costs {total / budget:.3f} of the budget")
    return epochs


@cache
def held_out(root: Path, name: str, seed: int) -> Any:
    """A data set whose test images are held out of training."""
    import coterie

    options = dict(DATA[name].options)
    there = {"root": root / options["root"]} if "root" in options else {}
    share = HELD_OUT.get(name, VALIDATION)
    data = coterie.data.load(**{**options, **there, "validation": share, "seed": seed})
    return replace(data, test=data.validation if share else data.test, validation=None)


# Training ------------------------------------------------------------------------------------------------------------


def train(cell: Cell, root: Path, device: str) -> dict[str, Any]:
    """What is measured of a cell: errors on the images that were held out."""
    import coterie

    data = held_out(root, cell["data"], cell["seed"])
    epochs = epochs_of(root, cell["data"], cell["network"], cell["arm"], cell["scale"])
    method, recipe = make(cell["arm"], cell["network"], epochs)
    with tempfile.TemporaryDirectory() as folder:
        run = coterie.train(
            method,
            data,
            recipe=recipe,
            out=Path(folder) / "run",
            epochs=1,
            batch_size=DATA[cell["data"]].batch // int(ARMS[cell["arm"]].method.get("num_views", 1)),
            seed=cell["seed"],
            threads=1,
            device=device,
            test_every=10_000,
            progress=False,
        )
        card, last = run.card, run.metrics[-1]
        default = card["deliverables"][0]
        return {
            "says": f"{card['test'][default]['error']:.2f} %",
            "epochs": epochs,
            "training_flops": card["training_flops"],
            "seconds": card["seconds"],
            "delivered": default,
            "error": card["test"][default]["error"],
            "nll": card["test"][default]["nll"],
            "errors": {name: figures["error"] for name, figures in card["test"].items()},
            "train_error": {name: value for name, value in last.items() if name.startswith("train_error_")},
            **surroundings(device),
        }


# Report --------------------------------------------------------------------------------------------------------------


def report() -> dict[str, Any]:
    """Errors of every arm, and paired differences from the network alone."""
    rows = read_rows(RESULTS)
    tables: dict[str, list[dict[str, Any]]] = {"errors": [], "minus alone": []}
    groups = dict.fromkeys((row["cell"]["data"], row["cell"]["network"], row["cell"]["scale"]) for row in rows)
    for data, network, scale in sorted(groups):
        there = {"data": data, "network": network, "scale": scale}
        by_arm = {
            arm: {
                row["cell"]["seed"]: row
                for row in rows
                if all(row["cell"][name] == value for name, value in {**there, "arm": arm}.items())
            }
            for arm in ARMS
        }
        for arm, found in by_arm.items():
            if not found:
                continue
            errors = [row["error"] for row in found.values()]
            tables["errors"].append(
                {
                    **there,
                    "arm": arm,
                    "n": len(errors),
                    "error": round(mean(errors), 2),
                    "std": round(stdev(errors), 2) if len(errors) > 1 else None,
                    "nll": round(mean(row["nll"] for row in found.values()), 3),
                    "train": round(mean(min(row["train_error"].values()) for row in found.values()), 1),
                    "epochs": "+".join(str(count) for count in next(iter(found.values()))["epochs"].values()),
                    "tflop": round(mean(row["training_flops"] for row in found.values()) / 1e12, 2),
                    "seconds": round(mean(row["seconds"] for row in found.values()), 1),
                }
            )
            if arm != "alone":
                pairs = [row["error"] - by_arm["alone"][s]["error"] for s, row in found.items() if s in by_arm["alone"]]
                if pairs:
                    difference = paired(pairs)
                    difference["interval"] = str(difference.get("interval", ""))
                    tables["minus alone"].append({**there, "arm": arm, **difference})
    return tables


# Command -------------------------------------------------------------------------------------------------------------


def print_plan(cells: Sequence[Cell], root: Path, gflops: float) -> None:
    """How many cells there are and what they cost."""
    done = {json.dumps(row["cell"], sort_keys=True) for row in read_rows(RESULTS)}
    kinds: dict[tuple[Any, ...], dict[str, Any]] = {}
    for cell in cells:
        name = tuple(cell[part] for part in ("data", "network", "arm", "scale"))
        epochs, own = epochs_of(root, *name), costs(root, *name[:3])
        count = len(held_out(root, cell["data"], cell["seed"]).train)
        row = kinds.setdefault(
            name,
            dict(zip(("data", "network", "arm", "scale"), name, strict=True))
            | {"cells": 0, "done": 0, "epochs": "+".join(map(str, epochs.values())), "tflop": 0.0},
        )
        row["cells"] += 1
        row["done"] += json.dumps(cell, sort_keys=True) in done
        row["tflop"] += sum(epochs[stage] * own[stage] for stage in epochs) * count / 1e12
    show(list(kinds.values()))
    total = sum(row["tflop"] * (1 - row["done"] / row["cells"]) for row in kinds.values())
    print(f"{total:.0f} TFLOP left, {total * 1e3 / gflops / 60:.0f} core-minutes at {gflops:.0f} GFLOP/s a core")


def main() -> None:
    """Plan, train or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--networks", nargs="+", default=["resnet8"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--scales", nargs="+", type=float, default=list(SCALES), help="of the epochs of every cell")
    parser.add_argument("--root", type=Path, default=Path("data"))
    add_options(parser, seeds=3, gflops=150.0)
    arguments = parser.parse_args()
    if arguments.report:
        publish(report(), SUMMARY, "python benchmarks/candidates.py --report")
        return
    single_threaded()
    names = ("seed", "data", "network", "scale", "arm")
    asked = product(
        range(arguments.seeds), arguments.data, arguments.networks, arguments.scales, dict.fromkeys(arguments.arms)
    )
    cells = [dict(zip(names, values, strict=True)) for values in asked]
    if arguments.plan:
        print_plan(cells, arguments.root, arguments.gflops)
        return
    for cell in cells:  # counted once, before there are several processes
        epochs_of(arguments.root, cell["data"], cell["network"], cell["arm"], cell["scale"])
    run_cells(
        cells,
        partial(train, root=arguments.root, device=arguments.device),
        RESULTS,
        jobs=arguments.jobs,
        minutes=arguments.minutes,
        kind=lambda cell: " ".join(str(cell[name]) for name in ("data", "network", "arm", "scale")),
    )


if __name__ == "__main__":
    main()
