"""How long a training still takes, and how that is written."""

from time import perf_counter


class Watch:
    """Tells how long the rest takes: at this session's mean speed, with what is measured between epochs.

    The first step is left out, for it also chooses kernels and compiles.

    Args:
        total: Steps of the stage.
        done: Those that an earlier session has done.
        later: Stages that come after this one and take as long; None where they take another time that is not known.
    """

    def __init__(self, total: int, done: int = 0, later: int | None = 0) -> None:
        self.total, self.done, self.later = total, done, later
        self._first: tuple[int, float] | None = None
        self._last = 0.0

    @property
    def share(self) -> float:
        """Of the stage's steps that are done, in [0, 1]."""
        return self.done / self.total if self.total else 0.0

    def step(self) -> None:
        """One step is done."""
        self.done += 1
        self.look()
        if self._first is None:
            self._first = self.done, self._last

    def look(self) -> None:
        """What took time without a step is done, such as measuring."""
        self._last = perf_counter()

    def left(self) -> float | None:
        """Seconds until the end of the training, or of the stage where ``later`` is None; None before the second step.

        Between steps it stays as it is.
        """
        if self._first is None or self.done == self._first[0]:
            return None
        each = (self._last - self._first[1]) / (self.done - self._first[0])
        return each * (self.total - self.done + self.total * (self.later or 0))


def clock(seconds: float | None) -> str:
    """Hours, minutes and seconds: ``0:04:10``, ``75:00:00``; dashes for None."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
