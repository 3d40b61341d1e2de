"""What was trained on, how, when and where: as the Runs' cards and configurations have it."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from coterie.console.terminal import printable
from coterie.data.say import plural
from coterie.reports.measured import Experiment, Measured
from coterie.reports.section import Section

_SPLITS = {"train": "training", "validation": "validation", "test": "test"}


def count_images(run: Measured) -> dict[str, int]:
    """How many images each split has: as the card says, else as many as there are now; empty where neither is known."""
    counted = run.card.get("images")
    if counted is None and run.data is not None:
        counted = {split: len(getattr(run.data, split) or ()) for split in _SPLITS}
    return {split: counted[split] for split in _SPLITS if counted.get(split)} if counted else {}


def make_training_section(experiments: Sequence[Experiment]) -> Section:
    """What all experiments have in common as a list, what differs as a table with a column for each."""
    facts = [_list_data(each.first) | _list_training(each) | _list_delivered(each) for each in experiments]
    names = list(dict.fromkeys(name for each in facts for name in each))
    values = {name: [each.get(name, "–") for each in facts] for name in names}
    common = {name: each[0] for name, each in values.items() if len(set(each)) == 1}
    several = any(len(each.runs) > 1 for each in experiments)
    return Section(
        "Data and training",
        "Seconds are means over seeds." if several else "",
        facts=list(common.items()),
        header=("", *(each.group.name for each in experiments)),
        rows=[(name, *values[name]) for name in names if name not in common],
    )


def _list_data(run: Measured) -> dict[str, str]:
    card = run.card
    height, width = card["image_size"]
    counts = ", ".join(f"{count:,} {_SPLITS[split]}" for split, count in count_images(run).items())
    facts = {
        "data": card["data"],
        "classes": f"{len(card['classes']):,}",
        "images": counts,
        "training images of a class": _describe_balance(card.get("class_images"), card["classes"]),
        "image size": f"{height} × {width} pixels, {'grey' if card['channels'] == 1 else 'colour'}",
    }
    return {name: text for name, text in facts.items() if text}


def _describe_balance(counts: Sequence[int] | None, classes: Sequence[str]) -> str:
    if not counts or len(counts) != len(classes):
        return ""
    least, most = min(counts), max(counts)
    if least == most:
        return f"{least:,}"
    smallest, largest = (printable(classes[counts.index(count)]) for count in (least, most))
    return f"{least:,} ({smallest}) to {most:,} ({largest})"


def _list_training(experiment: Experiment) -> dict[str, str]:
    config: Mapping[str, Any] = experiment.first.run.config
    cards = [run.card for run in experiment.runs]
    recipe = config.get("recipe")
    ended = max((card["ended"] for card in cards if "ended" in card), default="")
    seeds = ", ".join(str(run.run.config["seed"]) for run in experiment.runs)
    threads = config.get("threads")
    computed = [cards[0].get("device"), config.get("precision"), threads and plural(threads, "CPU thread")]
    facts = {
        "recipe": str(recipe["name"]) if isinstance(recipe, Mapping) and "name" in recipe else "",
        "batch": str(config.get("batch_size") or ""),
        "epochs": str(config["epochs"]) + (" a stage" if _has_stages(experiment.first) else ""),
        "seeds" if len(experiment.runs) > 1 else "seed": seeds,
        "computed on": ", ".join(str(each) for each in computed if each),
        "ended": f"{ended[:16].replace('T', ' ')} UTC" if ended else "",
        "seconds": f"{mean(card['seconds'] for card in cards):,.1f}"
        if all("seconds" in card for card in cards)
        else "",
    }
    return {name: text for name, text in facts.items() if text}


def _list_delivered(experiment: Experiment) -> dict[str, str]:
    run, card = experiment.first.run, experiment.first.card
    file = run.weights_path(experiment.group.default)
    epoch = f"epoch {card['epoch']}, {card['selected']}" if "epoch" in card and "selected" in card else ""
    versions = [f"coterie {card['coterie']}" if "coterie" in card else "", f"PyTorch {card.get('torch', '')}"]
    facts = {
        "delivered": epoch.removesuffix(", last"),
        "parameters": f"{card['cost'][experiment.group.default]['parameters']:,}",
        "file": f"{file.stat().st_size / 1e6:,.2f} MB" if file.is_file() else "",
        "trained with": ", ".join(version for version in versions if version.strip() != "PyTorch" and version),
    }
    return {name: text for name, text in facts.items() if text}


def _has_stages(run: Measured) -> bool:
    return len({row["stage"] for row in run.run.metrics}) > 1
