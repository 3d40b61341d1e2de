"""The pictures of a report, as SVG that takes the page's colours in light and dark."""

import base64
import html
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from io import BytesIO, StringIO
from math import ceil, floor, log10
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from coterie.extras import need
from coterie.reports.drawing.colours import Palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

matplotlib, font_manager, ticker = (
    need(name, "report") for name in ("matplotlib", "matplotlib.font_manager", "matplotlib.ticker")
)

INK = "#010203"  # stands for the page's text colour until the SVG is in the page

_LEAST = 70  # pixels for an inch of a picture: on a narrower page it scrolls within its box, and its text can be read
_HALF = (4.0, 2.8)  # inches, of half a page: no wider, so that its text can be read on a telephone

Curve = tuple[Sequence[float], Sequence[float]]


def new_figure(width: float, height: float) -> tuple["Figure", Any]:
    """An empty figure of so many inches, and its axes."""
    figure: Figure = need("matplotlib.figure", "report").Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def to_svg(figure: "Figure", title: str) -> str:
    """A figure as SVG that takes the page's colours; the title is for those who cannot see it."""
    text = StringIO()
    families = show_plainly(figure)
    options: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "text.parse_math": False,
        "font.family": families,
    }
    with matplotlib.rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has fonts of its own
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Every picture's own names, since one page holds them all.
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = svg.replace(INK, "currentColor")
    escaped = html.escape(title).replace("\\", r"\\")
    least = round(_LEAST * figure.get_figwidth())
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{escaped}" style="min-width: {least}px" ', svg, count=1)


def show_plainly(figure: "Figure") -> list[str]:
    """Show all text of a figure as it is, none of it as mathematics, in fonts that have its letters.

    Returns:
        The fonts' families.
    """
    texts = figure.findobj(need("matplotlib.text", "report").Text)
    families = ["sans-serif", *_fonts_for(frozenset("".join(text.get_text() for text in texts)))]
    for text in texts:
        text.set_parse_math(False)
        if len(families) > 1:
            text.set_fontfamily(families)
    return families


@cache
def _fonts_for(letters: frozenset[str]) -> tuple[str, ...]:
    """Families that have what the usual font lacks: as few as do, none where no font has it."""
    usual = _glyphs(font_manager.findfont(font_manager.FontProperties(family=["sans-serif"])))
    missing = {ord(letter) for letter in letters if letter.isprintable()} - usual
    families = []
    # Matplotlib draws no coloured glyphs, and a font of last resort has boxes for letters.
    fonts = [font for font in font_manager.fontManager.ttflist if not re.search("emoji|resort", font.name.lower())]
    for entry in sorted(fonts, key=lambda entry: (entry.style != "normal", entry.fname)):
        if not missing:
            break
        if missing & (glyphs := _glyphs(entry.fname)):
            families.append(entry.name)
            missing -= glyphs
    return tuple(families)


def _glyphs(file: str) -> set[int]:
    try:
        return set(font_manager.get_font(file).get_charmap())
    except (OSError, RuntimeError):  # listed, and gone or damaged
        return set()


def mark_log_axis(
    axis: Any, ends: tuple[float, float], most: int = 7, form: Callable[[float], str] | None = None
) -> None:
    """Put figures on a logarithmic axis: at least two, whatever its range, and no more than there is room for.

    Args:
        axis: Of a figure; its scale is logarithmic.
        ends: Of the range; both above 0.
        most: How many figures there is room for.
        form: Says a value; None for the number itself.
    """
    low, high = ends
    for steps in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        powers = range(floor(log10(low)), floor(log10(high)) + 1)
        ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) <= most:
            break
    else:
        ticks = ticks[:: ceil(len(ticks) / most)]
    if len(ticks) < 3:  # less than a factor of five or so: nearly linear
        even = ticker.MaxNLocator(nbins=min(most, 6), steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        ticks = [value for value in even if low <= value <= high]
    axis.set_major_locator(ticker.FixedLocator(ticks))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: form(value) if form else f"{value:g}"))


def colour_axes(axes: Any) -> None:
    """Give axes and legend the page's text colour."""
    axes.tick_params(colors=INK, which="both")
    for part in (axes.xaxis.label, axes.yaxis.label, axes.title):
        part.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    legend = axes.get_legend()
    if legend is not None:
        for text in legend.get_texts():
            text.set_color(INK)


def draw_curves(named: Mapping[str, Curve], title: str, label: str, palette: Palette, log: bool = False) -> str:
    """Lines over epochs.

    Args:
        named: Name to (epochs, values).
        title: For those who cannot see it.
        label: Of the vertical axis.
        palette: Of the page.
        log: Whether that axis is logarithmic.
    """
    figure, axes = new_figure(*_HALF)
    for name, (epochs, values) in named.items():
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, values, label=name, linewidth=1.6, marker=marker, **palette.style(name))
    if log and all(value > 0 for _, values in named.values() for value in values):
        axes.set_yscale("log")
        mark_log_axis(axes.yaxis, axes.get_ylim())
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    _add_legend(axes)
    colour_axes(axes)
    return to_svg(figure, title)


def draw_histogram(named: Mapping[str, np.ndarray[Any, Any]], title: str, label: str, palette: Palette) -> str:
    """How values in [0, 1] are spread over the images."""
    figure, axes = new_figure(*_HALF)
    for name, values in named.items():
        axes.hist(values, bins=np.linspace(0, 1, 41), histtype="step", label=name, linewidth=1.6, **palette.style(name))
    axes.set_xlabel(label)
    axes.set_ylabel("test images")
    _add_legend(axes)
    colour_axes(axes)
    return to_svg(figure, title)


def draw_confusions(counts: Tensor, classes: Sequence[str], title: str) -> str:
    """Rows are true classes; the share of each that was said to be each; figures where there is room for them."""
    share = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    few = len(classes) <= 20
    names = [_fold_name(name) for name in classes] if few else []
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    side = min(6.4, 1.2 + 0.3 * len(classes)) + 0.07 * max(longest - 8, 0)  # inches, and those that the names take
    figure, axes = new_figure(side, side)
    axes.spines[["top", "right"]].set_visible(True)
    axes.imshow(np.sqrt(share.numpy()), cmap="Blues", vmin=0, vmax=1)  # the root lets rare confusions be seen
    if few:
        axes.set_xticks(range(len(classes)), names, rotation=90, fontsize="x-small")
        axes.set_yticks(range(len(classes)), names, fontsize="x-small")
        for true in range(len(classes)):
            for said in range(len(classes)):
                count = int(counts[true, said])
                if count:
                    colour = "#ffffff" if share[true, said] > 0.3 else "#222222"
                    axes.text(said, true, count, ha="center", va="center", fontsize="xx-small", color=colour)
    axes.set_xlabel("said")
    axes.set_ylabel("is")
    colour_axes(axes)
    return to_svg(figure, title)


def _fold_name(name: str) -> str:
    """A class name in two lines at most: of a very long one its middle is left to the page's table."""
    name = name if len(name) <= 60 else f"{name[:29]} … {name[-28:]}"
    return "\n".join(wrap(name, 30)) or name


def draw_reliability(named: Mapping[str, tuple[Tensor, Tensor]], title: str, palette: Palette) -> str:
    """How often each is right at each confidence, in 15 bins.

    Args:
        named: Name to (logits (N, C), labels (N,)).
        title: For those who cannot see it.
        palette: Of the page.
    """
    figure, axes = new_figure(4.0, 3.7)
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=1)
    for name, (logits, labels) in named.items():
        confidence, said = logits.softmax(1).max(1)
        place = (confidence * 15).long().clamp(max=14)
        right = (said == labels).double()
        filled = [number for number in range(15) if (place == number).sum() >= 5]
        x = [confidence[place == number].mean().item() for number in filled]
        y = [right[place == number].mean().item() for number in filled]
        axes.plot(x, y, marker="o", label=name, linewidth=1.4, markersize=4, **palette.style(name))
    axes.set_xlabel("confidence")
    axes.set_ylabel("share right")
    _add_legend(axes)
    colour_axes(axes)
    return to_svg(figure, title)


def _add_legend(axes: Any) -> None:
    """The names: in the axes where they are few, else above them, where they hide nothing."""
    count = len(axes.get_legend_handles_labels()[1])
    if count == 0:  # a Run without metrics
        return
    if count <= 5:
        axes.legend(frameon=False, fontsize="small")
        return
    axes.figure.set_figheight(axes.figure.get_figheight() + 0.18 * count)
    axes.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1))


def make_thumbnail(pixels: np.ndarray[Any, Any], side: int = 96) -> str:
    """An image uint8 (H, W, channels) as a data URL of a PNG."""
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    factor = max(1, side // max(image.size))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((side, side))
    png = BytesIO()
    image.save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
