"""The plot of ``coterie train --find_rate``: the loss against the learning rate."""

from coterie.reports.drawing.colours import COLOURS
from coterie.reports.drawing.plots import mark_log_axis, new_figure, to_svg
from coterie.training.rate_test import RateTest


def plot_rate(test: RateTest) -> str:
    """An SVG of the smoothed loss against the rate, with what is suggested and what the recipe would take.

    Args:
        test: Of :func:`coterie.training.find_rate`.
    """
    figure, axes = new_figure(6.4, 3.6)
    axes.plot(test.rates, test.losses, color=COLOURS[0])
    for rate, what, colour in ((test.suggestion, "suggested", COLOURS[1]), (test.chosen, "the recipe's", COLOURS[2])):
        axes.axvline(rate, color=colour, linestyle="--", label=f"{what}: {rate:.2g}")
    axes.set_xscale("log")
    mark_log_axis(axes.xaxis, axes.get_xlim())
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss, smoothed")
    axes.legend(fontsize="small", frameon=False, loc="best")
    return to_svg(figure, "Training loss against the learning rate")
