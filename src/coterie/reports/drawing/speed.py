"""The plot of ``coterie bench``: error against latency."""

from collections.abc import Sequence

from coterie.deploy.speed import Form
from coterie.errors import UserError
from coterie.reports.drawing.colours import Palette, count_alike
from coterie.reports.drawing.plots import new_figure, to_svg
from coterie.reports.groups import name_part


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
    # A network has one colour in whatever form it runs, and marks tell its forms apart.
    labels = [f"{form.name} ({form.runtime})" for form in known]
    palette = Palette({label: name_part(form.method, form.student) for form, label in zip(known, labels, strict=True)})
    colours = {label: palette.colour(label) for label in labels}
    marks = count_alike(labels, colours)
    for form, label in zip(known, labels, strict=True):
        assert form.error is not None
        timing = form.timings[0]
        mark = ("o", "s", "^", "D")[marks[label] % 4]
        axes.plot(timing.median_ms, form.error, mark, color=colours[label], label=label)
        axes.hlines(form.error, timing.median_ms, timing.p95_ms, color=colours[label], linewidth=1)
    first = known[0].timings[0]
    threads = f"{first.threads} thread{'s' if first.threads > 1 else ''}"
    axes.set_xlabel(f"ms, median to 95 %, batch {first.batch_size}, {threads}")
    axes.set_ylabel("test error %")
    axes.set_xlim(left=0)
    axes.legend(fontsize="small", frameon=False, loc="best")
    return to_svg(figure, "Error against latency")
