"""The look of charts: the colors of a light and a dark theme, figures, axes, legends and PNG files."""

import io
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from PIL import Image

matplotlib.use("Agg")

WIDTH_INCHES, WIDE_INCHES = 4.8, 7.4  # a wide chart scrolls sideways on a phone
PIXELS_PER_INCH, TITLE_LETTERS_PER_INCH = 200, 10.5


class Theme(NamedTuple):
    """The colors of a page, as #rrggbb; the `series` are distinguishable with color blindness."""

    background: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]
    soft: str
    high: str  # of the diverging color map, whose other end is the first of the series
    scale: tuple[str, ...]  # of the sequential color map, from 0 to the maximum


LIGHT = Theme(
    "#ffffff",
    "#1b2430",
    "#5a6676",
    "#e2e6ec",
    ("#2a6fb0", "#d97a1e", "#2f9470", "#b0518e", "#7a6a55"),
    "#c3d9ee",
    "#c2452f",
    ("#ffffff", "#c3d9ee", "#5c9bd1", "#2a6fb0", "#123a63"),
)
DARK = Theme(
    "#171b21",
    "#e7ebf1",
    "#9ca8b7",
    "#2c333d",
    ("#6fabec", "#f0a052", "#5cc7a0", "#e08cc4", "#b8a78d"),
    "#2c4c70",
    "#ef7f68",
    ("#171b21", "#20405f", "#3b78b3", "#7db6f0", "#e4f1ff"),
)


class Chart(NamedTuple):
    """A chart of a page; `notes` are short lists shown beside it, by heading."""

    name: str
    title: str
    caption: str
    draw: Callable[[Theme], Figure]
    is_wide: bool = False
    notes: dict[str, list[str]] = {}
    light: bytes = b""  # the drawn chart as a PNG file, for a light and a dark page
    dark: bytes = b""


def new_figure(
    theme: Theme,
    title: str,
    *,
    height: float,
    width: float = WIDTH_INCHES,
    rows: int = 1,
    columns: int = 1,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure with a title, and its axes without frame and tick marks, row by row; sizes in inches without the title.
    `options` are those of Figure.subplots."""
    lines = textwrap.wrap(title, int(width * TITLE_LETTERS_PER_INCH))
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.05)
    figure = Figure(figsize=(width, height + 0.2 * len(lines)), layout=layout, facecolor=theme.background)
    figure.suptitle(
        "\n".join(lines),
        x=0.01,
        ha="left",
        fontsize=10.5,
        fontweight="bold",
        color=theme.ink,
        linespacing=1.3,
        parse_math=False,
    )
    grid = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for axes in grid:
        axes.set_facecolor(theme.background)
        axes.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=8.5, length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure, grid


def label_axes(
    axes: Axes, theme: Theme, *, x: str = "", y: str = "", grid: str = "x", rows: Sequence[str] = ()
) -> None:
    """Labels the axes and draws grid lines; `rows` are the names of horizontal rows, the first on top."""
    axes.set_xlabel(x, color=theme.muted, fontsize=8.5)
    axes.set_ylabel(y, color=theme.muted, fontsize=8.5)
    if rows:
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
    if grid:
        axes.grid(axis=grid, color=theme.grid, lw=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def add_legend(figure: Figure, axes: Axes, theme: Theme) -> None:
    """Adds a legend below the axes, if anything has a label; lines and dots come after bars."""
    found = zip(*axes.get_legend_handles_labels(), strict=True)
    entries = sorted(found, key=lambda entry: isinstance(entry[0], Line2D))
    if entries:
        handles, labels = zip(*entries, strict=True)
        figure.legend(
            handles,
            labels,
            loc="outside lower left",
            ncols=min(len(labels), 3),
            fontsize=8.5,
            frameon=False,
            labelcolor=theme.ink,
            columnspacing=1.4,
            handlelength=1.5,
        )


def as_png(figure: Figure) -> bytes:
    """A PNG of at most 256 colors, a third of the size of one with all colors."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PIXELS_PER_INCH, pil_kwargs={"compress_level": 0})
    return _png_of(Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE))


def _png_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def stacked_png(figures: Sequence[Figure]) -> bytes:
    """Figures of the same width below each other in one PNG."""
    pictures = [Image.open(io.BytesIO(as_png(figure))).convert("RGB") for figure in figures]
    return _png_of(Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures])))
