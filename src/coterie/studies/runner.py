"""Runs a study's trials: those that are missing, side by side, each written down as soon as it is measured."""

import re
import shlex
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from coterie.console.signals import end, leave
from coterie.errors import UserError, in_a_line
from coterie.studies.pools import describe_machine, end_processes
from coterie.studies.results import Result, Results, load_results, lock_results, save_results
from coterie.studies.study import Key, Trial, locate_run
from coterie.studies.trial import configuration_of, make_failure, run_trial
from coterie.version import __version__

# A worker that ends without an answer is given its trial once more, alone.
_TRIES = 2


class Stopped(Exception):
    """A signal came; what ran is kept, and the same command goes on."""


class Progress:
    """A study's results so far: what is done, and what is to do.

    Args:
        path: The results file, gone on with if it is there.
        head: What is said of the study, without trials.
        trials: All of the study's, in order.
        runs: The folder of the Runs.

    Raises:
        UserError: The file is another study's or scale's.
    """

    def __init__(self, path: Path, head: Results, trials: Sequence[Trial], runs: Path) -> None:
        self.path, self.head, self.trials, self.runs = path, head, trials, runs
        self.by_key = {trial.key: trial for trial in trials}
        self._read()

    def _read(self) -> None:
        path, head = self.path, self.head
        before = load_results(path) if path.exists() else head
        if (before.study, before.scale) != (head.study, head.scale):
            raise UserError(
                f"⟨out {path}⟩: holds {before.study} at scale {before.scale}; name another file for {head.study}, "
                f"scale {head.scale}"
            )
        # What was measured in another configuration, as of an earlier form of the study's file, is forgotten.
        asked = {trial.key: configuration_of(trial) for trial in self.trials}
        self.known: dict[Key, Result] = {
            result.key: self._repeatable(result)
            for result in before.trials
            if result.configuration == asked.get(result.key)
        }
        self.results = replace(
            head,
            version=self._both(before.version, __version__),
            torch=self._both(before.torch, torch.__version__),
            machine=self._both(before.machine, describe_machine()),
            trials=self._in_order(),
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other command writes the file; it is read anew, since one may have until now.

        Raises:
            UserError: Another command is writing it.
        """
        with lock_results(self.path):
            self._read()
            yield

    def done(self, trial: Trial) -> bool:
        """Whether it was measured."""
        result = self.known.get(trial.key)
        return result is not None and result.failed is None

    def missing(self, chosen: Iterable[Trial]) -> list[Trial]:
        """What is to run, teachers first: chosen trials that are not done, and teachers whose Run is not there."""
        wanted = dict[Key, Trial]()

        def want(trial: Trial) -> None:
            for key in trial.needs:
                teacher = self.by_key[key]
                if not self.done(teacher) or not (locate_run(teacher, self.runs) / "model.json").is_file():
                    want(teacher)
            wanted.setdefault(trial.key, trial)

        for trial in chosen:
            if not self.done(trial):
                want(trial)
        return list(wanted.values())

    def taught(self, trial: Trial) -> float | None:
        """FLOPs of the trainings of all that a trial learns from, each once; None where one of them is not known."""
        found = [self._own(key) for key in self._above(trial)]
        known = [each for each in found if each is not None]
        return sum(known) if len(known) == len(found) else None

    def _own(self, key: Key) -> float | None:
        """FLOPs of a trial's training without its teachers'."""
        total = self.known[key].training_flops if key in self.known else None
        taught = self.taught(self.by_key[key])
        return None if total is None or taught is None else total - taught

    def _above(self, trial: Trial) -> dict[Key, None]:
        """Its teachers, theirs, and so on, in one order at every call."""
        found = dict[Key, None]()
        for key in trial.needs:
            found |= {key: None} | self._above(self.by_key[key])
        return found

    def add(self, result: Result) -> None:
        """Keep a result, and write the file: the study's trials in its order."""
        self.known[result.key] = self._repeatable(result)
        self.results.trials = self._in_order()
        save_results(self.path, self.results)

    def _in_order(self) -> list[Result]:
        """What is known, in the study's order."""
        return [self.known[trial.key] for trial in self.trials if trial.key in self.known]

    def _both(self, before: str, now: str) -> str:
        """What made the trials that are kept, and what makes more."""
        made = before.split("; ") if before and self.known else []
        return "; ".join(dict.fromkeys([*made, now]))

    def _repeatable(self, result: Result) -> Result:
        """With a command in any case: an experiment's is the study's, of one trial."""
        name = re.escape("/".join(map(str, result.key))).replace("\\-", "-")
        command = result.command or f"{self.results.command} --only {shlex.quote(f'^{name}$')}"
        return replace(result, command=command)


class Scheduler:
    """Runs trials side by side, each when its teachers are there.

    Args:
        progress: Keeps the results.
        todo: As from :meth:`Progress.missing`.
        pools: Makes what runs functions elsewhere; asked again where its processes died.
        workers: How many trials run at a time.
        show: Told which trials run, whenever others do.
    """

    def __init__(
        self,
        progress: Progress,
        todo: Iterable[Trial],
        pools: Callable[[], Executor],
        workers: int,
        show: Callable[[Sequence[Trial]], None] = lambda trials: None,
    ) -> None:
        self.progress, self.todo, self.pools, self.workers, self.show = progress, list(todo), pools, workers, show
        self.waiting = dict[Key, Trial]()
        self.running: dict[Future[Result | None], Trial] = {}
        self.suspects: dict[Key, int] = {}  # trials whose process died, and how often

    def run(self) -> Iterator[Result]:
        """Every result, when it is written.

        Raises:
            Stopped: SIGINT or SIGTERM came; trainings have written their checkpoints.
            UserError: Another command is writing the results.
        """
        with _interrupts(), self.progress.alone():
            # What another command has measured until now is not run again.
            self.waiting = {trial.key: trial for trial in self.progress.missing(self.todo)}
            yield from self._run()

    def keep(self, keys: Collection[Key]) -> None:
        """Of trials that wait, begin these alone."""
        self.waiting = {key: trial for key, trial in self.waiting.items() if key in keys}

    def _run(self) -> Iterator[Result]:
        self.pool = self.pools()
        try:
            while self.waiting or self.running:
                self._submit()
                self.show(list(self.running.values()))
                for future in wait(self.running, return_when=FIRST_COMPLETED).done:
                    if future in self.running and (result := self._result(future)) is not None:
                        self.progress.add(result)
                        yield result
        except KeyboardInterrupt:
            raise Stopped from None
        finally:  # a signal while a result is read ends the generator, too: GeneratorExit
            end_processes(self.pool)

    def _submit(self) -> None:
        """Fill the workers; what a process died of is run alone."""
        known = self.progress.known
        for trial in list(self.waiting.values()):
            room = (
                1 if self.suspects.keys() & {trial.key, *(each.key for each in self.running.values())} else self.workers
            )
            if len(self.running) >= room or any(key in self._ahead for key in trial.needs):
                continue
            blamed = next((key for key in trial.needs if known[key].failed is not None), None)
            if blamed is None:
                try:
                    future = self.pool.submit(run_trial, trial, self.progress.runs, self.progress.taught(trial))
                except BrokenExecutor:
                    # A process died that had nothing to do. What runs there breaks too, and then the pool is replaced.
                    if not self.running:
                        self._replace_pool()
                    return
            else:
                future = Future()
                future.set_result(
                    make_failure(trial, self.progress.runs, f"its teacher failed: {'/'.join(map(str, blamed))}")
                )
            del self.waiting[trial.key]
            self.running[future] = trial

    @property
    def _ahead(self) -> set[Key]:
        """What is not done yet."""
        return {*self.waiting, *(trial.key for trial in self.running.values())}

    def _result(self, future: Future[Result | None]) -> Result | None:
        """What a finished future gives; None where its trial runs again."""
        trial = self.running[future]
        try:
            result = future.result()
        except BrokenExecutor:
            return self._after_death(trial)
        except Exception as error:  # of a machine far away
            result = make_failure(trial, self.progress.runs, in_a_line(error))
        if result is None:
            raise KeyboardInterrupt
        del self.running[future]
        self.suspects.pop(trial.key, None)
        return result

    def _replace_pool(self) -> None:
        """New processes, when the old ones have ended: no two train into one folder."""
        end_processes(self.pool)
        self.pool = self.pools()

    def _after_death(self, trial: Trial) -> Result | None:
        """A process died, and with it the pool: all that ran is run again, one by one, but what died twice."""
        for each in self.running.values():
            self.suspects[each.key] = self.suspects.get(each.key, 0) + 1
        again = {each.key: each for each in self.running.values()}
        self.running.clear()
        self._replace_pool()
        self.waiting = again | self.waiting
        if self.suspects[trial.key] < _TRIES:
            return None
        del self.waiting[trial.key], self.suspects[trial.key]
        return make_failure(trial, self.progress.runs, "its process died twice; was memory short?")


@contextmanager
def _interrupts() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does."""
    before = signal.getsignal(signal.SIGTERM)
    if before in (end, leave):  # the command line's, which ends in an exception already
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
