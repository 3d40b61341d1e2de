"""What can be known of a study's trials before any is trained: names, options, their types and ranges."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from coterie.bounds import NonNegative
from coterie.checking import check_names, check_value
from coterie.data.loading import check_options
from coterie.errors import UserError, unknown_name
from coterie.networks.reinit import build_on_meta
from coterie.networks.zoo import Backbone
from coterie.records import NetworkRecord
from coterie.studies.analyses import CURVES
from coterie.studies.experiments import EXPERIMENTS
from coterie.studies.study import Scale, Trial
from coterie.studies.trial import method_of, options_of, recipe_of


def check_scale(scale: Scale, trials: Iterable[Trial]) -> None:
    """Refuse a scale of which a trial could not be trained; networks are built on shapes alone.

    Args:
        scale: It.
        trials: Its trials.

    Raises:
        UserError: A method, option, recipe, network, data set or experiment is unknown, or a value is of the wrong type
            or out of range: it names the arm, the network or the data set, and the option.
    """
    for table in scale.tables:
        hint = dict[str, NonNegative] if isinstance(table.minutes, dict) else NonNegative
        check_value(f"table '{table.name}', minutes", table.minutes, hint)
    seen: set[str] = set()
    for trial in trials:
        config = trial.configuration
        if "experiment" in config:
            _once(seen, f"arm '{trial.arm}'", config["experiment"], _check_experiment)
            continue
        _once(seen, f"data set '{trial.data}'", config["data"], check_data)
        _once(seen, f"network '{trial.network}'", config["network"], _check_network)
        training = {key: value for key, value in config.items() if key not in ("data", "seed")}
        _once(seen, f"arm '{trial.arm}'", training, partial(_check_training, measures=trial.measures))


def _once(seen: set[str], where: str, content: Mapping[str, Any], check: Callable[[Mapping[str, Any]], None]) -> None:
    """Check what has not been checked yet, and say where it stands if it is wrong."""
    mark = json.dumps([where, content], sort_keys=True, default=str)
    if mark in seen:
        return
    seen.add(mark)
    try:
        check(content)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _check_experiment(content: Mapping[str, Any]) -> None:
    if content["name"] not in EXPERIMENTS:
        raise unknown_name("experiment", content["name"], EXPERIMENTS)


def check_data(content: Mapping[str, Any]) -> None:
    """Refuse an unknown data set, or options that it cannot have; it is not read.

    Raises:
        UserError: Names the option.
    """
    check_options(content)


def _check_network(content: Mapping[str, Any]) -> None:
    check_names("it", content, known=NetworkRecord.__annotations__, needed=("name",))
    check_value("⟨network⟩", content["name"], str)
    check_value("⟨network.pretrained⟩", content.get("pretrained", False), bool)
    check_value("⟨network.weights⟩", content.get("weights"), str | None)
    network = Backbone.from_record(content)
    build_on_meta(lambda: network.build_fresh(10, 3, (224, 224)))
    network.preprocessing()


def _check_training(config: Mapping[str, Any], measures: Collection[str]) -> None:
    options_of(config)
    method = method_of(config)
    for stage in method.epochs:
        if stage not in method.stage_names():
            raise unknown_name(f"stage of ⟨method.epochs⟩ of '{method.name}'", stage, method.stage_names())
    recipe_of(config)
    if CURVES in measures and "test_every" not in config:
        raise UserError("its table measures curves; give 'test_every' in the scale's common, budgets, or the arm")
