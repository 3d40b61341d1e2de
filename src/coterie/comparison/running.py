"""``coterie compare``: probe, plan, train rung by rung, judge, and hand over the best network."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from functools import cached_property, partial
from multiprocessing import parent_process
from pathlib import Path
from statistics import mean
from typing import Any

from coterie.bounds import PositiveInt
from coterie.checking import check_value
from coterie.comparison.as_study import SCALE, write_study
from coterie.comparison.budget import Cost, Plan, PlannedRung, keep_better, make_plan
from coterie.comparison.costing import probe
from coterie.comparison.folder import Folder, State
from coterie.comparison.outcome import Outcome, find_outcome, label, validation_errors
from coterie.comparison.question import Limits, Question
from coterie.data.say import plural
from coterie.errors import UserError
from coterie.files import user_path
from coterie.reports.studies.page import read_measured, report_studies
from coterie.studies import runner
from coterie.studies.ladder import name_arm
from coterie.studies.pools import default_workers, end_processes, make_process_pool
from coterie.studies.results import Result, Results
from coterie.studies.statistics import LEVEL, smallest_difference
from coterie.studies.study import Study, Trial, locate_run
from coterie.training.before.pace import duration
from coterie.training.precision import PrecisionChoice

_MARGIN = 0.92  # of the budget, that is planned for: trainings differ, and the page is drawn at the end
_LAST = 5.0  # seconds for the page
_FEW = 30  # epochs of the network alone, below which a training tells little of a longer one

_GUARD = "In a script of your own, call coterie.compare under: if __name__ == '__main__'"

Show = Callable[[Sequence[Trial]], None]


class Comparison:
    """A comparison of trainings of one network on one data set, at equal cost.

    Args:
        question: What is compared.
        limits: How far it goes.
        out: Its folder; gone on with if it holds the same comparison.
        workers: Trainings side by side; None for one a GPU, else one a core.

    Raises:
        UserError: The folder holds another comparison, an arm cannot be trained, or the budget buys nothing.
    """

    def __init__(self, question: Question, limits: Limits, out: str | Path, workers: int | None = None) -> None:
        workers = check_value("⟨workers⟩", workers, PositiveInt | None) or default_workers()
        if parent_process() is not None:
            raise UserError(_GUARD)
        self.folder = Folder(user_path(out))
        self.begun = time.monotonic()
        self.pools: Callable[[], Executor] = partial(make_process_pool, workers)
        before = self.folder.read_state()
        if before is not None and not before.is_asked(question, limits):
            raise UserError(
                f"⟨out {out}⟩: holds a comparison with other options; give the same ones, or name another folder"
            )
        self.state = State(question, limits, workers, {}) if before is None else before
        self.used_before = self.state.used
        if before is None:
            self.state.costs, self.state.batch_size = self._probe()
        self.pace: list[float] = []  # seconds that trainings took, over those that were planned
        self.outcome: Outcome | None = None

    def _probe(self) -> tuple[dict[str, Cost], int]:
        question = self.state.question
        pool = self.pools()
        try:
            return probe(pool, {arm: question.configuration(arm) for arm in question.methods_by_arm()})
        except BrokenExecutor as error:
            raise UserError(f"a process that tried a few steps died; was memory short? {_GUARD}") from error
        finally:
            end_processes(pool)

    @cached_property
    def plan(self) -> Plan:
        """What is trained."""
        state, limits = self.state, self.state.limits
        room = None if limits.seconds is None else _MARGIN * limits.seconds
        return make_plan(state.costs, seconds=room, epochs=limits.epochs, seeds=limits.seeds, workers=state.workers)

    @property
    def used(self) -> float:
        """Seconds spent so far, by this command and those that it goes on from."""
        return self.used_before + time.monotonic() - self.begun

    def run(self, show: Show = lambda trials: None) -> Iterator[Result]:
        """Train what is missing, rung by rung; yields every result. The page is drawn after each rung.

        Args:
            show: Told which trainings run, whenever others do.

        Raises:
            Stopped: A signal came; the page shows what there is, and the same command goes on.
        """
        question, state = self.state.question, self.state
        study = write_study(self.folder.study, question, state.costs, state.batch_size, self.plan)
        self.folder.write_state(state)
        trials = {trial.key: trial for trial in study.scale(SCALE).trials()}
        progress = self._progress(study, list(trials.values()))
        arms, data, network = list(state.costs), str(question.images()["name"]), str(question.network["name"])
        try:
            for number, rung in enumerate(self.plan.rungs):
                chosen = [
                    trials[data, network, name_arm(arm, rung.epochs[arm]), seed]
                    for seed in range(rung.seeds)
                    for arm in arms
                ]
                yield from self._train(progress, chosen, rung, show)
                if number + 1 < len(self.plan.rungs):
                    left = self.plan.rungs[number + 1].arms
                    if left < len(arms):
                        epochs = {arm: rung.epochs[arm] for arm in arms}
                        stay = keep_better(validation_errors(progress.results, data, network, epochs), left)
                        state.dropped |= {arm: number for arm in arms if arm not in stay}
                        arms = stay
                    self.finish()
        finally:
            self.finish()

    @property
    def plan_seconds(self) -> float:
        """How long the plan takes."""
        return self.plan.total / self.state.workers

    def _progress(self, study: Study, trials: Sequence[Trial]) -> runner.Progress:
        head = Results(self.folder.study.name, SCALE, f"coterie study {self.folder.study}")
        return runner.Progress(self.folder.results, head, trials, self.folder.runs)

    def _train(
        self, progress: runner.Progress, chosen: Sequence[Trial], rung: PlannedRung, show: Show
    ) -> Iterator[Result]:
        todo = self._in_time(progress.missing(chosen), rung)
        scheduler = runner.Scheduler(progress, todo, self.pools, self.state.workers, show)
        for result in scheduler.run():
            if result.failed is None:
                self.pace.append(result.seconds / self._expected(result.arm, rung))
            self.state.used = self.used
            self.folder.write_state(self.state)
            yield result
            stay = {trial.key for trial in self._in_time(list(scheduler.waiting.values()), rung)}
            scheduler.keep(stay)

    def _in_time(self, trials: Sequence[Trial], rung: PlannedRung) -> list[Trial]:
        """Of trainings that wait those of seeds that would all end within the budget if they began now."""
        if self.state.limits.seconds is None:
            return list(trials)
        left, pace = self.state.limits.seconds - _LAST - self.used, mean(self.pace) if self.pace else 1.0
        late = {trial.seed for trial in trials if pace * self._expected(trial.arm, rung) > left}
        return [trial for trial in trials if trial.seed not in late]

    def _expected(self, arm: str, rung: PlannedRung) -> float:
        return next(rung.seconds[name] for name, epochs in rung.epochs.items() if name_arm(name, epochs) == arm)

    def notes(self) -> list[str]:
        """What was trained, in sentences."""
        state, plan = self.state, self.plan
        top = plan.rungs[-1]
        alone = next(iter(top.epochs.values()))
        each = ", ".join(f"{epochs} epochs of {label(arm)}" for arm, epochs in top.epochs.items())
        batches = "" if state.batch_size is None else f" in batches of {state.batch_size}"
        said = [f"The highest budget buys {each}{batches}, which were planned to cost the same FLOPs to 1 %."]
        if state.limits.seconds is not None:
            said.append(f"Spent so far: {duration(self.used)} of {duration(state.limits.seconds)}.")
        for arm, rung in state.dropped.items():
            length = next(iter(plan.rungs[rung].epochs.values()))
            said.append(
                f"{label(arm).capitalize()} was dropped at the cost of {length} epochs of the network alone: the "
                "time did not suffice for all, and it failed there, or others had a lower validation error."
            )
        if alone < _FEW:
            said.append("So short trainings tell little: a longer budget may turn the order round.")
        said.append(f"The chosen network is in {self.folder.network}, a Run like any other.")
        return said

    def finish(self) -> None:
        """Judge what there is, draw the page, and put the chosen network in its place."""
        if not self.folder.results.is_file():
            return
        measured = read_measured(self.folder.results)
        study = measured.study
        self.outcome = outcome = find_outcome(study.scale(SCALE), measured.results)
        self.state.verdict = {} if outcome is None else outcome.to_json()
        self.state.used = self.used
        lead = self.notes() if outcome is None else [*outcome.sentences, *self.notes()]
        report_studies([measured], self.folder.page, lead=lead)
        if outcome is not None:
            delivered = next(t for t in study.scale(SCALE).trials() if t.key == outcome.delivered.key)
            self.folder.deliver(locate_run(delivered, self.folder.runs))
        self.folder.write_state(self.state)


def plan_lines(comparison: Comparison) -> list[str]:
    """What the plan costs, and what it could tell, in sentences."""
    top = comparison.plan.rungs[-1]
    told = smallest_difference(1.0, top.seeds, level=LEVEL / max(1, top.arms - 1))
    said = [
        f"about {duration(comparison.plan_seconds)} here, {plural(comparison.state.workers, 'training')} side by side, "
        f"in batches of {comparison.state.batch_size or 'the default size'}",
        f"{top.seeds} pairs of seeds tell a difference of {told:.1f} points in four of five repetitions, if pairs "
        "differ by a standard deviation of 1 point",
    ]
    if comparison.plan.halves:
        said.append(
            "the time does not suffice for all arms on all rungs: those with the higher validation error are dropped"
        )
    return said


def compare(
    network: str | Mapping[str, Any],
    data: Mapping[str, Any],
    out: str | Path,
    *,
    budget: str | None = None,
    epochs: int | None = None,
    seeds: int | None = None,
    methods: Sequence[str] = (),
    teacher: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    precision: PrecisionChoice = "auto",
    workers: int | None = None,
) -> Outcome | None:
    """Find the training that gives the best network of this size on these images, at equal cost.

    A ladder of budgets is climbed; on each, the network alone and every method are trained for the same FLOPs. The best
    is chosen on validation images and judged on test images. ``OUT/page.html`` shows it, ``OUT/network`` is the best
    Run. The same call goes on with a comparison that was stopped.

    It starts processes, which import the script that calls it: call it under ``if __name__ == "__main__":``.

    Args:
        network: A name, such as ``timm/resnet18``, or the mapping of a Run's ``config.yaml``.
        data: Arguments of :func:`coterie.data.load`, its ``name`` among them.
        out: The comparison's folder.
        budget: How long it may take, such as ``2h`` or ``90m``; None without a limit.
        epochs: Of the network alone on the highest budget; None for what ``budget`` allows.
        seeds: Trainings of each arm there; None for what ``budget`` allows, 5 without one.
        methods: Beside the network alone; empty for ONE, and for KD where there is a teacher.
        teacher: A published network that teaches.
        recipe: Its ``name`` and options; None for ``modern``, or ``finetune`` where the network starts trained.
        batch_size: Images in a step; None for 128, or fewer, down to 16, so that an epoch has 20 steps.
        precision: See :class:`coterie.training.TrainingOptions`.
        workers: Trainings side by side; None for one a GPU, else one a core.

    Returns:
        What was found; None where too little was trained to say anything.

    Raises:
        UserError: An option is wrong, the folder holds something else, or the budget buys no comparison.
        Stopped: A signal came; the page shows what there is.
    """
    record = {"name": network} if isinstance(network, str) else dict(network)
    question = Question(record, dict(data), tuple(methods), teacher, dict(recipe or {}), batch_size, precision)
    comparison = Comparison(question, Limits(budget, epochs, seeds), out, workers)
    for _ in comparison.run():
        pass
    return comparison.outcome
