"""What the first steps of a stage tell: what a step costs over the network alone, and about how long all will take."""

import time

from coterie.data import ImageData
from coterie.data.say import plural
from coterie.evaluation.costs import step_flops
from coterie.methods import Method
from coterie.training.stages import StageRun

_WARM_UP = 2  # steps, in which kernels are chosen and memory is allotted
_LAST = 10  # step that is timed
_WORTH_SAYING = 10.0  # seconds
_SAME = 0.005  # by which costs may differ and are still said to be the same


class Pace:
    """Looks at the first steps of a stage, and says each thing once. Nothing that is computed depends on it.

    Args:
        running: The stage, before its first step.
        method: What is trained.
    """

    def __init__(self, running: StageRun, method: Method) -> None:
        self.running, self.method = running, method
        count = len(method.stage_names())
        alike = count > 1 and are_alike(method)
        self.stages = count if alike else 1  # that a time is said for
        self.where = f" of stage '{running.stage.name}'" if count > 1 and not alike else ""
        self.timed = alike and running.index > 0  # the first stage said it for all
        self.started = 0.0

    def after_step(self) -> None:
        """Look at a step that is over."""
        running, done = self.running, self.running.steps_done
        if done == 1:
            self._say_cost()
        if self.timed or running.epoch > 0:  # between epochs the test images are measured
            return
        if done == _WARM_UP:
            running.wait()
            self.started = time.perf_counter()
        elif done == min(_LAST, running.steps_per_epoch) and done > _WARM_UP:
            running.wait()
            self._say_time((time.perf_counter() - self.started) / (done - _WARM_UP))
            self.timed = True

    def _say_cost(self) -> None:
        running, data = self.running, self.running.setting.data
        alone = running.stage.deliver.get("target")
        if running.flops_per_image is None or alone is None or self.method.baseline or self.method.prunes:
            return
        ratio = running.flops_per_image / step_flops(alone, data.channels, data.image_size)
        if abs(ratio - 1) > _SAME:
            running.setting.reporter.say(cost_line(ratio, self.where))

    def _say_time(self, seconds: float) -> None:
        total = seconds * self.running.total_steps * self.stages
        if total >= _WORTH_SAYING:
            options, epochs = self.running.setting.options, self.running.epochs * self.stages
            self.running.setting.reporter.say(
                time_line(total, self.where, self.running.setting.data, epochs, options.test_every)
            )


def are_alike(method: Method) -> bool:
    """Whether all stages train the same: one name with a number (``member1``, ``member2``), and none teaches."""
    names = {name.rstrip("0123456789") for name in method.stage_names()}
    return len(names) == 1 and not method.epochs and not any(edge.teaches for edge in method.teaching())


def cost_line(ratio: float, where: str = "") -> str:
    """What a step costs, counted in FLOPs.

    Args:
        ratio: Over a step of the network alone.
        where: Names the stage where there are several.
    """
    return f"a training step{where} costs {ratio:.2f} times the FLOPs of the network alone"


def time_line(seconds: float, where: str, data: ImageData, epochs: int, test_every: int) -> str:
    """About how long the steps take, and what is not in it.

    Args:
        seconds: Of all steps.
        where: Names the stage where it is one of several.
        data: What is measured after epochs.
        epochs: How many there are.
        test_every: How often the test images are measured.
    """
    measured = [f"{len(data.test):,} test images {plural(-(-epochs // test_every), 'time')}"]
    if data.validation is not None:
        measured.append(f"{len(data.validation):,} validation images {plural(epochs, 'time')}")
    return f"about {duration(seconds)} for the steps{where}; measuring {' and '.join(measured)} comes on top"


def duration(seconds: float) -> str:
    """A time as one would say it: ``40 seconds``, ``12 minutes``, ``3.5 hours``, ``2 days``."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * length:
            count = seconds / length
            return f"{count:.0f} {unit}s" if count >= 10 or unit == "minute" else f"{count:.2g} {unit}s"
    return f"{seconds:.0f} seconds"
