"""Does ``make demo`` show the same each time? Its trainings on fifty other seeds: ten repetitions of its five.

    python benchmarks/demo.py            # resumes where it stopped; writes benchmarks/demo.json

For each repetition the mean test error of every arm, in %, and its difference to ``plain``; how many of the ten agree
in sign; and the difference over all fifty seeds with its 95 % interval. Two trainings side by side, one thread each.
The demo's own seeds are 0 to 4: they chose nothing.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean

from coterie.files import write_text
from coterie.studies import runner
from coterie.studies.pools import make_process_pool
from coterie.studies.reading import load_study
from coterie.studies.results import Results
from coterie.studies.statistics import compare

RESULTS = Path(__file__).with_suffix(".json")
RUNS = Path("runs/demo-repeated")
FIRST, REPETITIONS = 100, 10


def main() -> None:
    """Train what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    workers = parser.parse_args().workers
    study = load_study("demo")
    scale = study.scale("small")
    each = scale.seeds
    trials = replace(scale, seeds=FIRST + REPETITIONS * each).trials()
    trials = [trial for trial in trials if trial.seed >= FIRST]
    head = Results("demo", "small", "python benchmarks/demo.py")
    progress = runner.Progress(RUNS / "results.json", head, trials, RUNS)
    for result in runner.Scheduler(
        progress, progress.missing(trials), partial(make_process_pool, workers), workers
    ).run():
        print(result.key, result.failed or result.measured["target"]["error"], flush=True)
    write_text(RESULTS, json.dumps(summarise(progress.results, each), indent=1) + "\n")


def summarise(results: Results, each: int) -> dict[str, object]:
    """By arm, the repetitions' means and what they say against ``plain``."""
    errors: dict[str, dict[int, float]] = {}
    for trial in results.trials:
        error = trial.figure("target", "error")
        if error is not None:
            errors.setdefault(trial.arm.split()[0], {})[trial.seed] = error
    seeds = sorted(set.intersection(*(set(own) for own in errors.values())))
    arms: dict[str, object] = {}
    for arm, own in errors.items():
        groups = [seeds[start : start + each] for start in range(0, len(seeds), each)]
        means = [round(mean(own[seed] for seed in group), 2) for group in groups]
        gains = [mean(errors["plain"][seed] - own[seed] for seed in group) for group in groups]
        found = compare([own[seed] for seed in seeds], [errors["plain"][seed] for seed in seeds])
        arms[arm] = {
            "means": means,
            "better_than_plain": f"{sum(gain > 0 for gain in gains)} of {len(groups)}",
            "difference": round(found.difference, 3),
            "interval": [round(found.low, 3), round(found.high, 3)],
            "sd_of_pairs": round(found.sd, 3),
            "seeds": len(seeds),
        }
    found = compare([errors["one"][seed] for seed in seeds], [errors["strong"][seed] for seed in seeds])
    between = {"difference": round(found.difference, 3), "interval": [round(found.low, 3), round(found.high, 3)]}
    made = {"command": results.command, "machine": results.machine, "torch": results.torch}
    return {**made, "arms": arms, "one - strong": between}


if __name__ == "__main__":
    main()
