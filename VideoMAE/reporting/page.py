"""Writing pages: number formats, charts in both themes, thumbnails, and the Jinja2 templates in `templates/`."""

import base64
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np
from tqdm import tqdm

from VideoMAE.cli import counted
from VideoMAE.files import write_atomically, write_json, write_text
from VideoMAE.reporting.chart_style import DARK, LIGHT, Chart, as_png
from VideoMAE.video.check import MIN_FILES_FOR_PROGRESS_BAR, run_in_processes
from VideoMAE.video.reader import Video

logger = logging.getLogger(__name__)

TEMPLATES = Path(__file__).with_name("templates")
PAGE_FILE = "index.html"
THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT = 192, 144  # pixels that a thumbnail fits into
THUMBNAILS_BUDGET_BYTES = 1_200_000  # of one page
JPEG_QUALITIES = (80, 65, 50, 35, 20)


def number(value: float | None, digits: int) -> str:
    """A number with a typographic minus sign: -0.25 -> −0.25"""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int) -> str:
    """The same with a plus sign: 0.25 -> +0.25"""
    return ("+" if value is not None and value > 0 else "") + number(value, digits)


def digits_of(unit: str) -> int:
    """The number of decimals shown for a unit."""
    return 1 if unit == "%" else 3


def with_unit(value: float | None, unit: str) -> str:
    return number(value, digits_of(unit)) + (f"\N{NO-BREAK SPACE}{unit}" if unit and value is not None else "")


def interval(estimate: Mapping[str, Any], unit: str) -> str:
    """40.0 to 66.7"""
    if estimate["low"] is None:
        return "–"
    return f"{number(estimate['low'], digits_of(unit))} to {number(estimate['high'], digits_of(unit))}"


def percent(share: float) -> str:
    """0.1234 -> 12.3 %"""
    return f"{100 * share:.1f} %"


def draw(charts: Sequence[Chart]) -> list[Chart]:
    logger.info("drawing %s", counted(len(charts), "chart"))
    return [chart._replace(light=as_png(chart.draw(LIGHT)), dark=as_png(chart.draw(DARK))) for chart in charts]


def data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


ENVIRONMENT = jinja2.Environment(  # of all pages; it escapes every value
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.globals["zip"] = zip
ENVIRONMENT.filters |= {
    **{format.__name__: format for format in (number, signed, with_unit, interval, percent, digits_of, data_uri)},
    "thousands": "{:,}".format,
    "count": counted,
    "only": lambda charts, *names: [charts[name] for name in names if name in charts],
}


def write_page(
    folder: Path, template: str, *, drawn: Sequence[Chart], numbers_file: str, numbers: Mapping[str, Any], **values: Any
) -> Path:
    """Writes the charts as PNG files, the numbers as JSON, then the page. -> path of the page"""
    charts = {chart.name: chart for chart in drawn}
    html = ENVIRONMENT.get_template(template).render(charts=charts, numbers=numbers, **values)
    for chart in drawn:
        write_bytes(folder / f"{chart.name}.png", chart.light)
    write_json(folder / numbers_file, numbers, indent=1)
    write_text(folder / PAGE_FILE, html)
    return folder / PAGE_FILE


def write_bytes(file: Path, content: bytes) -> None:
    write_atomically(file, lambda temporary: temporary.write_bytes(content))


class Thumbnails(NamedTuple):
    """Middle frames of the readable videos, (H, W, 3) uint8 BGR by id, and the reasons for the unreadable ones."""

    pictures: dict[str, np.ndarray]
    unreadable: dict[str, str]


def read_thumbnails(videos: Mapping[str, Path], *, num_processes: int, limit_seconds: float) -> Thumbnails:
    """Reads the middle frames in processes that are killed after `limit_seconds` per video."""
    is_hidden = True if len(videos) <= MIN_FILES_FOR_PROGRESS_BAR else None  # None: hidden unless on a terminal
    stream = run_in_processes(list(videos.items()), min(num_processes, len(videos)), limit_seconds, read_thumbnail)
    bar = tqdm(stream, desc="reading thumbnails", total=len(videos), unit="video", disable=is_hidden)
    found = {probed.video_id: probed.result for probed in bar}
    unreadable = {key: found[key] for key in videos if isinstance(found[key], str)}
    return Thumbnails({key: found[key] for key in videos if key not in unreadable}, unreadable)


def read_thumbnail(path: Path) -> np.ndarray:
    """The middle frame of a video, scaled to fit. -> (H, W, 3) uint8 BGR. Raises UnreadableVideoError."""
    with Video(path) as video:
        held = video.frames_held
        frame = video.frames_at(held[[len(held) // 2]])[0]
    scale = min(THUMBNAIL_WIDTH / frame.shape[1], THUMBNAIL_HEIGHT / frame.shape[0])
    size = [max(1, round(scale * side)) for side in frame.shape[1::-1]]
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return cv2.cvtColor(small, cv2.COLOR_RGB2BGR)


def as_jpegs(pictures: Mapping[str, np.ndarray], *, budget_bytes: int = THUMBNAILS_BUDGET_BYTES) -> dict[str, bytes]:
    """JPEG files in the best quality whose total size is within the budget, or else in the lowest quality."""
    for quality in JPEG_QUALITIES:
        flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
        encoded = {key: cv2.imencode(".jpg", picture, flags)[1].tobytes() for key, picture in pictures.items()}
        if sum(map(len, encoded.values())) <= budget_bytes:
            break
    return encoded
