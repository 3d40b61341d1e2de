"""The plot of ``coterie bench``: error against latency."""

from collections.abc import Sequence

from coterie.deploy.speed import Form
from coterie.errors import UserError
from coterie.reports.plots import COLOURS, new_figure, to_svg


def plot_speed(forms: Sequence[Form]) -> str:
    """An SVG with a point for each form: milliseconds a call across, test error in percent upwards.

    The calls are of the first number of threads and batch size; a line goes from the median to what 95 % do not exceed.

    Args:
        forms: Of :func:`coterie.deploy.bench`.

    Raises:
        UserError: No form's error is known.
    """
    known = [form for form in forms if form.error is not None]
    if not known:
        raise UserError("⟨plot⟩: no test error is known of these files; name their Run too")
    figure, axes = new_figure(6.4, 3.6)
    for place, form in enumerate(known):
        assert form.error is not None
        timing = form.timings[0]
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(timing.median_ms, form.error, "o", color=colour, label=f"{form.name} ({form.runtime})")
        axes.hlines(form.error, timing.median_ms, timing.p95_ms, color=colour, linewidth=1)
    first = known[0].timings[0]
    threads = f"{first.threads} thread{'s' if first.threads > 1 else ''}"
    axes.set_xlabel(f"ms, median to 95 %, batch {first.batch_size}, {threads}")
    axes.set_ylabel("test error %")
    axes.set_xlim(left=0)
    axes.legend(fontsize="small", frameon=False, loc="best")
    return to_svg(figure, "Error against latency")
