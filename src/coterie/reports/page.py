"""One self-contained page from one or more Runs: figures, pictures, and what they mean."""

from collections.abc import Mapping, Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from coterie.console.terminal import printable
from coterie.errors import UserError
from coterie.extras import need
from coterie.files import user_path, write_text
from coterie.methods import Edge
from coterie.reports.augmented import show_augmented
from coterie.reports.classes import count_answers, make_classes_section
from coterie.reports.comparisons import compare_to_baselines
from coterie.reports.drawing import plots
from coterie.reports.drawing.colours import Palette
from coterie.reports.drawing.teaching import draw_teaching
from coterie.reports.facts import count_images, make_training_section
from coterie.reports.groups import find_baseline, group_runs
from coterie.reports.measured import Experiment, collect_curves, measure
from coterie.reports.pictures import show_answers
from coterie.reports.section import Section
from coterie.reports.students import delivers_students, make_students_section
from coterie.reports.table import describe_means, make_rows
from coterie.run import Run
from coterie.version import __version__

Value = TypeVar("Value")

_MOST_CURVES = 10  # in a picture; of more experiments only what is deployed and the ensemble is drawn


def report(runs: Run | str | Path | Sequence[Run | str | Path], out: str | Path, **options: Any) -> Path:
    """Write the page; the runs must be of the same classes.

    Runs that differ in their seeds alone (and in what cannot change a result, such as threads) are one experiment:
    means are over seeds. A run whose images cannot be had stays on the page without what needs them, which the page and
    a warning say.

    Args:
        runs: Finished runs, or their folders, or one of them; those of ``vanilla`` are baselines.
        out: The HTML file, replaced where it exists.
        options: Of :func:`coterie.data.load` in place of the runs', for example ``root`` where the images are now.

    Raises:
        UserError: There are no runs, one has not finished, or they are of different classes.
    """
    given = [Run.of(run) for run in ([runs] if isinstance(runs, Run | str | Path) else runs)]
    if not given:
        raise UserError("nothing to report; name one or more Run folders")
    cards = [run.card for run in given]
    if any(card["classes"] != cards[0]["classes"] for card in cards):
        raise UserError("these runs are of different classes; report them one data set at a time")
    experiments, left_out = measure(group_runs(given), options)
    palette = Palette({label: name for each in experiments for label, name in each.group.colour_names.items()})
    environment = need("jinja2", "report").Environment(autoescape=True, trim_blocks=True)
    template = environment.from_string(files("coterie.reports").joinpath("page.html").read_text(encoding="utf-8"))
    images = next((counts["test"] for each in experiments if "test" in (counts := count_images(each.first))), 0)
    methods = " and ".join(dict.fromkeys(card["method"] for card in cards))
    networks = " and ".join(dict.fromkeys(card["network"] or "your network" for card in cards))
    page = template.render(
        title=f"{networks} on {cards[0]['data']}: {methods}",
        drawn=f"Drawn {date.today().isoformat()} by coterie {__version__}.",
        left_out=left_out,
        verdicts=compare_to_baselines(experiments),
        caution=_caution(images),
        rows=make_rows(given),
        means=describe_means(given),
        images=f"{images:,}" if images else "all",
        sections=[
            make_training_section(experiments),
            *_students(experiments, options),
            *_sections(experiments, palette),
        ],
        augmented=show_augmented(experiments),
        answers=show_answers(experiments),
        configurations=[{"path": run.path, "text": (run.path / "config.yaml").read_text("utf-8")} for run in given],
    )
    path = user_path(out)
    write_text(path, page)
    return path


def _caution(images: int) -> str:
    moves = f"errors on {images:,} test images" if images else "test errors"
    return (
        f"Another seed moves {moves} by several tenths of a point. A difference under half a point on three seeds or "
        "fewer is noise."
    )


def _students(experiments: Sequence[Experiment], options: Mapping[str, Any]) -> list[Section]:
    """The tables of those that deliver every peer, each beside the same networks trained alone as it was."""
    groups = [each.group for each in experiments]
    sections = []
    for experiment in experiments:
        if not delivers_students(experiment.first.run) or experiment.first.predictions is None:
            continue
        baseline = find_baseline(experiment.group, groups)
        slimmer = [group for group in groups if group.default.endswith("-alone")]
        alone = [run for each in [*([baseline[0]] if baseline else []), *slimmer] for run in each.by_seed.values()]
        sections.append(make_students_section(experiment.first.run, experiment.group.name, alone, **options))
    return sections


def _sections(experiments: Sequence[Experiment], palette: Palette) -> list[Section]:
    sections = [*_teaching(experiments), _curves(experiments, palette)]
    sections += [
        _gate(experiment, palette)
        for experiment in experiments
        if any(seen.weights is not None for _, seen in experiment.seen)
    ]
    classes = [printable(name) for name in experiments[0].group.card["classes"]]
    reliable = {name: pair for experiment in experiments for name, pair in experiment.named.items()}
    if reliable:
        text = "A well calibrated network lies on the diagonal: of what it says with 80 % confidence, 80 % is right."
        drawn = plots.draw_reliability(_few(reliable, experiments), "Reliability", palette)
        sections.append(Section("Calibration", text, figures=[("Reliability", drawn)]))
    matrices = [
        (
            f"{counted.name}{experiment.seeds}",
            plots.draw_confusions(counted.counts, classes, f"Confusions of {counted.name}"),
        )
        for experiment in experiments
        for counted in count_answers(experiment, classes)[:1]
    ]
    if matrices:
        sections.append(Section("Confusions", "Rows are true classes, columns what was said.", figures=matrices))
    by_class = make_classes_section(experiments, classes)
    return sections if by_class is None else [*sections, by_class]


def _few(named: Mapping[str, Value], experiments: Sequence[Experiment]) -> Mapping[str, Value]:
    """Names to draw: all, or of many those of what is deployed and of ensembles."""
    if len(named) <= _MOST_CURVES:
        return named
    kept = {
        experiment.group.label(peer)
        for experiment in experiments
        for peer in (experiment.group.default, experiment.first.run.ensemble or "ensemble")
    }
    return {name: value for name, value in named.items() if name in kept or name.split(", ")[0] in kept}


def _curves(experiments: Sequence[Experiment], palette: Palette) -> Section:
    pictures = []
    for split, caption in (("test", "Test error, %"), ("train", "Training error, %")):
        named = {
            name: curve
            for experiment in experiments
            for name, curve in collect_curves(experiment, f"{split}_error_").items()
        }
        title = f"{caption.removesuffix(', %')} over epochs"
        pictures.append(
            (caption, plots.draw_curves(_few(named, experiments), title, caption.lower(), palette, log=True))
        )
    several = any(len(experiment.runs) > 1 for experiment in experiments)
    return Section(
        "While training",
        "Errors after every epoch, at the precision of the training. Training errors are of augmented images, and "
        f"of the network as it was when it met them.{' Curves are means over seeds.' if several else ''}",
        figures=pictures,
    )


def _teaching(experiments: Sequence[Experiment]) -> list[Section]:
    drawings: dict[tuple[Edge, ...], str] = {}
    for experiment in experiments:
        try:
            edges = tuple(experiment.first.run.method().teaching())
        except UserError:  # a module of the user's own; what else it lacks is said above
            continue
        if edges:
            drawings.setdefault(edges, experiment.group.method)
    names = list(drawings.values())
    labels = [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]
    section = Section(
        "Who teaches whom",
        "Arrows go from a teacher to who learns from it; dotted lines lead to what is made of the peers' answers. "
        "Every peer learns from the labels too.",
        figures=[
            (name, draw_teaching(edges, f"Who teaches whom in {name}"))
            for name, edges in zip(labels, drawings, strict=True)
        ],
    )
    return [section] if drawings else []


def _gate(experiment: Experiment, palette: Palette) -> Section:
    run, weights = next((run, seen.weights) for run, seen in experiment.seen if seen.weights is not None)
    assert weights is not None
    peers = enumerate(run.card["peers"])
    spread = {experiment.group.label(peer): weights[:, index].cpu().numpy() for index, peer in peers}
    over_time = collect_curves(experiment, "test_weight_")
    of = f" of {experiment.group.name}" if experiment.group.difference else ""
    seed = f", seed {run.run.config['seed']}" if len(experiment.runs) > 1 else ""
    means = plots.draw_curves(over_time, f"Gate weights over epochs{of}", "mean weight", palette)
    drawn = plots.draw_histogram(spread, f"Gate weights over test images{of}", "weight", palette)
    return Section(
        f"The gate{of}",
        "How much of the ensemble each branch is: the mean over the test images after every epoch, and its spread over "
        "the images at the end.",
        figures=[
            ("Mean weight over time", means),
            (f"Weights over the test images{seed}", drawn),
        ],
    )
