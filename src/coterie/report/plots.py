"""The pictures of a report, as SVG that takes the page's colours in light and dark."""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

# Colour-blind safe (Okabe, Ito) and readable on both grounds.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7A5CA8")
INK = "#010203"  # stands for the page's text colour until the SVG is in the page

Curve = tuple[Sequence[float], Sequence[float]]


def new_figure(width: float = 6.4, height: float = 3.6) -> tuple[Figure, Any]:
    """An empty figure of so many inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def to_svg(figure: Figure, title: str) -> str:
    """A figure as SVG that takes the page's colours; the title is for those who cannot see it."""
    text = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Every picture's own names, since one page holds them all.
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = svg.replace(INK, "currentColor")
    escaped = html.escape(title).replace("\\", r"\\")
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{escaped}" ', svg, count=1)


def ink(axes: Any) -> None:
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


def curves(named: Mapping[str, Curve], title: str, label: str, log: bool = False) -> str:
    """Lines over epochs.

    Args:
        named: Name to (epochs, values).
        title: For those who cannot see it.
        label: Of the vertical axis.
        log: Whether that axis is logarithmic.
    """
    figure, axes = new_figure()
    for index, (name, (epochs, values)) in enumerate(named.items()):
        style = "--" if "alone" in name else "-"
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, values, style, color=COLOURS[index % len(COLOURS)], label=name, linewidth=1.6, marker=marker)
    if log and all(value > 0 for _, values in named.values() for value in values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.legend(frameon=False, fontsize="small")
    ink(axes)
    return to_svg(figure, title)


def histogram(named: Mapping[str, np.ndarray[Any, Any]], title: str, label: str) -> str:
    """How values in [0, 1] are spread over the images."""
    figure, axes = new_figure()
    for index, (name, values) in enumerate(named.items()):
        colour = COLOURS[index % len(COLOURS)]
        axes.hist(values, bins=np.linspace(0, 1, 41), histtype="step", color=colour, label=name, linewidth=1.6)
    axes.set_xlabel(label)
    axes.set_ylabel("test images")
    axes.legend(frameon=False, fontsize="small")
    ink(axes)
    return to_svg(figure, title)


def confusion_matrix(counts: Tensor, classes: Sequence[str], title: str) -> str:
    """Rows are true classes; the share of each that was said to be each; figures where there is room for them."""
    share = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(6.4, 2.4 + 0.4 * len(classes))
    figure, axes = new_figure(side, side)
    axes.spines[["top", "right"]].set_visible(True)
    axes.imshow(np.sqrt(share.numpy()), cmap="Blues", vmin=0, vmax=1)  # the root lets rare confusions be seen
    few = len(classes) <= 20
    if few:
        axes.set_xticks(range(len(classes)), [name[:14] for name in classes], rotation=90, fontsize="x-small")
        axes.set_yticks(range(len(classes)), [name[:14] for name in classes], fontsize="x-small")
        for true in range(len(classes)):
            for said in range(len(classes)):
                count = int(counts[true, said])
                if count:
                    colour = "#ffffff" if share[true, said] > 0.3 else "#222222"
                    axes.text(said, true, count, ha="center", va="center", fontsize="xx-small", color=colour)
    axes.set_xlabel("said")
    axes.set_ylabel("is")
    ink(axes)
    return to_svg(figure, title)


def reliability(named: Mapping[str, tuple[Tensor, Tensor]], title: str) -> str:
    """How often each is right at each confidence, in 15 bins.

    Args:
        named: Name to (logits (N, C), labels (N,)).
        title: For those who cannot see it.
    """
    figure, axes = new_figure(4.6, 4.2)
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=1)
    for index, (name, (logits, labels)) in enumerate(named.items()):
        confidence, said = logits.softmax(1).max(1)
        place = (confidence * 15).long().clamp(max=14)
        right = (said == labels).double()
        filled = [number for number in range(15) if (place == number).sum() >= 5]
        x = [confidence[place == number].mean().item() for number in filled]
        y = [right[place == number].mean().item() for number in filled]
        axes.plot(x, y, "o-", color=COLOURS[index % len(COLOURS)], label=name, linewidth=1.4, markersize=4)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share right")
    axes.legend(frameon=False, fontsize="small")
    ink(axes)
    return to_svg(figure, title)


def thumbnail(pixels: np.ndarray[Any, Any], side: int = 96) -> str:
    """An image uint8 (H, W, channels) as a data URL of a PNG."""
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    factor = max(1, side // max(image.size))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((side, side))
    png = BytesIO()
    image.save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
