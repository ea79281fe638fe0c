"""How charts look, on a light and on a dark page, and the two kinds that recur."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter
from numpy.typing import ArrayLike
from PIL import Image

matplotlib.use("Agg")

WIDTH_INCHES, WIDE_INCHES = 4.8, 7.4  # a wide chart scrolls sideways on a phone
PIXELS_PER_INCH = 200
TITLE_LETTERS_PER_INCH = 10.5


class Theme(NamedTuple):
    """The colours of a page, as #rrggbb; `series` are told apart by the colour-blind too."""

    background: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, str, str]
    soft: str
    low: str  # the ends of diverging colours
    high: str
    scale: tuple[str, ...]  # sequential colours, from none to most


LIGHT = Theme(
    "#ffffff", "#1b2430", "#5a6676", "#e2e6ec", ("#2a6fb0", "#d97a1e", "#2f9470"), "#c3d9ee", "#2a6fb0", "#c2452f",
    ("#ffffff", "#c3d9ee", "#5c9bd1", "#2a6fb0", "#123a63"),
)  # fmt: skip
DARK = Theme(
    "#171b21", "#e7ebf1", "#9ca8b7", "#2c333d", ("#6fabec", "#f0a052", "#5cc7a0"), "#2c4c70", "#6fabec", "#ef7f68",
    ("#171b21", "#20405f", "#3b78b3", "#7db6f0", "#e4f1ff"),
)  # fmt: skip

Draw = Callable[[Theme], Figure]


class Chart(NamedTuple):
    """A chart as file and page need it: `name`.png, what it finds, how to read it, the drawing in a theme.

    `notes` are short lists that the page shows beside it, by heading.
    """

    name: str
    title: str
    caption: str
    draw: Draw
    is_wide: bool = False
    notes: dict[str, list[str]] = {}


def new_figure(theme: Theme, title: str, *, height: float, width: float = WIDTH_INCHES) -> tuple[Figure, Axes]:
    """An empty figure with its finding as title, and its axes; sizes in inches."""
    figure = titled_figure(theme, title, height=height, width=width)
    return figure, styled(figure.add_subplot(), theme)


def titled_figure(theme: Theme, title: str, *, height: float, width: float = WIDTH_INCHES) -> Figure:
    """The same without axes."""
    lines = textwrap.wrap(title, int(width * TITLE_LETTERS_PER_INCH))
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.05)
    figure = Figure(figsize=(width, height + 0.2 * len(lines)), layout=layout, facecolor=theme.background)
    figure.suptitle(
        "\n".join(lines), x=0.01, ha="left", fontsize=10.5, fontweight="bold", color=theme.ink, linespacing=1.3
    )
    return figure


def styled(axes: Axes, theme: Theme) -> Axes:
    """Axes without frame and tick marks, in the theme's colours."""
    axes.set_facecolor(theme.background)
    axes.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=8.5, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def label_axes(axes: Axes, theme: Theme, *, x: str = "", y: str = "", grid: str = "x") -> None:
    axes.set_xlabel(x, color=theme.muted, fontsize=8.5)
    axes.set_ylabel(y, color=theme.muted, fontsize=8.5)
    if grid:
        axes.grid(axis=grid, color=theme.grid, lw=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def plot_dots(axes: Axes, theme: Theme, x: ArrayLike, y: ArrayLike, *, label: str) -> None:
    """Dots in the second colour, with a rim that parts them from what they lie on."""
    axes.plot(
        x, y, ls="", marker="o", ms=4.6, mec=theme.background, mew=0.8, color=theme.series[1], label=label,
        clip_on=False, zorder=3,
    )  # fmt: skip


def add_legend(figure: Figure, axes: Axes, theme: Theme) -> None:
    """Below the axes, where no bar can be hidden; dots after bars."""
    entries = sorted(
        zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: isinstance(entry[0], Line2D)
    )
    handles, labels = zip(*entries, strict=True)
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=len(labels),
        fontsize=8.5,
        frameon=False,
        labelcolor=theme.ink,
        columnspacing=1.4,
        handlelength=1.5,
    )


def grouped_bars(
    theme: Theme,
    title: str,
    rows: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    x: str,
    y: str = "",
    colours: Mapping[str, int] | None = None,
) -> Figure:
    """Horizontal bars in percent, the first row on top, one bar a row for each of up to three series, its value
    beside it. `colours` says which of the theme's three a series has."""
    num_series = len(series)
    figure, axes = new_figure(theme, title, height=0.9 + len(rows) * (0.1 + 0.17 * num_series))
    places = np.arange(len(rows))
    height = 0.8 / num_series
    largest = max(max(values) for values in series.values())
    for number, (name, values) in enumerate(series.items()):
        shifted = places + (number - (num_series - 1) / 2) * height
        axes.barh(
            shifted, values, height=0.88 * height, color=theme.series[colours[name] if colours else number], label=name
        )
        for place, value in zip(shifted, values, strict=True):
            if value:
                shown = f"{value:.1f}" if value >= 0.1 else "<0.1"
                axes.text(value + 0.012 * largest, place, shown, va="center", fontsize=7.5, color=theme.muted)
    axes.set_yticks(places, rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * largest)
    label_axes(axes, theme, x=x, y=y)
    if num_series > 1:
        add_legend(figure, axes, theme)
    return figure


def heat_map(
    theme: Theme,
    title: str,
    values: np.ndarray,
    names: Sequence[str],
    *,
    colours: Colormap,
    norm: Normalize,
    legend: str,
    x: str = "",
    y: str = "",
) -> Figure:
    """A square table of numbers (K, K) as colours, NaN left blank, its scale beside it."""
    side = max(4.2, 0.225 * len(names))
    figure, axes = new_figure(theme, title, height=side + 1.75, width=max(WIDE_INCHES, side + 2))
    edges = np.arange(len(names) + 1) - 0.5
    mesh = axes.pcolormesh(edges, edges, values, cmap=colours, norm=norm, edgecolors=theme.background, lw=0.6)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(labelsize=8)
    label_axes(axes, theme, x=x, y=y, grid="")
    add_scale(figure, axes, mesh, theme, legend)
    return figure


def add_scale(figure: Figure, axes: Axes, mesh: matplotlib.cm.ScalarMappable, theme: Theme, legend: str) -> None:
    bar = figure.colorbar(mesh, ax=axes, shrink=0.5, aspect=26, pad=0.02, format=FormatStrFormatter("%g"))
    bar.ax.minorticks_off()
    bar.ax.spines["outline"].set_visible(False)
    bar.ax.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=8, length=0)
    bar.set_label(legend, color=theme.muted, fontsize=8.5)


def sequential(theme: Theme) -> Colormap:
    return LinearSegmentedColormap.from_list("sequential", theme.scale)


def diverging(theme: Theme) -> Colormap:
    """From `low` over the background to `high`."""
    colours = LinearSegmentedColormap.from_list("diverging", [theme.low, theme.background, theme.high])
    return colours.with_extremes(bad=theme.grid)


def as_png(figure: Figure) -> bytes:
    """A PNG of at most 256 colours, a third of the size of a full one."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PIXELS_PER_INCH, pil_kwargs={"compress_level": 0})
    image = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    smaller = io.BytesIO()
    image.save(smaller, format="png", optimize=True)
    return smaller.getvalue()
