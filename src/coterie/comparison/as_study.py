"""A comparison as a study: a file like any other, with a frontier."""

from pathlib import Path

import yaml

from coterie.comparison.budget import RATIO, Cost, Plan, relative_costs
from coterie.comparison.question import Question
from coterie.files import write_text
from coterie.studies.reading import load_study
from coterie.studies.study import Study

SCALE = "small"


def write_study(path: Path, question: Question, costs: dict[str, Cost], batch_size: int | None, plan: Plan) -> Study:
    """Write the study's file and read it again, so that what is trained is what the file says."""
    network, data = str(question.network["name"]), str(question.images()["name"])
    own, fixed = relative_costs(costs)
    batch = {} if batch_size is None else {"batch_size": batch_size}
    top = plan.rungs[-1]
    content = {
        "title": f"Which training is best for {network} on {data}?",
        "about": "Written by `coterie compare`. On every rung all arms cost the same.",
        SCALE: {
            "seeds": max(rung.seeds for rung in plan.rungs),
            "common": question.common() | batch,
            "data": {data: question.images()},
            "networks": {network: question.network},
            "arms": {arm: {"method": method} for arm, method in question.methods_by_arm().items()},
            "frontiers": [
                {
                    "data": data,
                    "network": network,
                    "epochs": plan.epochs,
                    "rungs": len(plan.rungs),
                    "ratio": RATIO,
                    "costs": own,
                    "fixed": fixed,
                    "judged_at": "highest",
                    "minutes": max(
                        0.01,
                        round(
                            sum(top.seconds.values()) / len(top.seconds) / 60 * plan.epochs / max(top.epochs.values()),
                            3,
                        ),
                    ),
                }
            ],
        },
    }
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))
    return load_study(str(path))
