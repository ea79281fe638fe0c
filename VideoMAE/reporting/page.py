"""The page of a report: one HTML file that needs nothing else, on any width, light or dark."""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from VideoMAE.reporting.chart_style import DARK, LIGHT, Chart, as_png

logger = logging.getLogger(__name__)

STYLE = """
:root { color-scheme: light dark; --page: #f4f6f9; --card: #ffffff; --ink: #1b2430; --muted: #5a6676; --line: #dfe4ea;
        --accent: #2a6fb0; --warn: #fdf1e3; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0f1216; --card: #171b21; --ink: #e7ebf1; --muted: #9ca8b7; --line: #2c333d; --accent: #6fabec;
          --warn: #33261a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: clamp(1.4rem, 4vw, 2rem); line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.25rem; margin: 40px 0 12px; }
h3 { font-size: 1rem; margin: 0 0 8px; overflow-wrap: anywhere; }
h3 span, .lead, figcaption, small { color: var(--muted); font-weight: normal; }
p { margin: 0 0 12px; max-width: 75ch; }
.card, .tile, figure.chart { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: .85rem; line-height: 1.3; display: block; }
.charts { columns: 2 430px; column-gap: 16px; margin-bottom: 16px; }
figure.chart { margin: 0 0 16px; padding: 12px; break-inside: avoid; }
figure.chart img { display: block; width: 100%; height: auto; }
figcaption { font-size: .85rem; line-height: 1.4; margin-top: 8px; }
figcaption dl { margin: 12px 0 0; } figcaption dt { font-weight: 600; margin-top: 8px; } figcaption dd { margin: 0; }
figure.wide { column-span: all; margin-top: 16px; }
figure.wide { display: grid; grid-template-columns: minmax(0, 740px) minmax(0, 1fr); gap: 20px; }
.scroll { overflow-x: auto; }
.narrow { display: none; }
.card { padding: 14px; margin-bottom: 12px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9em; }
th:last-child, td:last-child { padding-right: 0; }
th { color: var(--muted); font-weight: 600; }
summary { cursor: pointer; color: var(--accent); }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)); gap: 8px; }
@media (min-width: 700px) { .strip { grid-template-columns: repeat(6, 1fr); } }
.strip + h3 { margin-top: 14px; }
.strip figure { margin: 0; }
.strip img { display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: var(--page);
             border-radius: 6px; }
.strip .missing { aspect-ratio: 4 / 3; display: grid; place-items: center; color: var(--muted); font-size: .8rem;
                  background: var(--page); border-radius: 6px; }
.strip figcaption { font-size: .75rem; margin-top: 3px; overflow-wrap: anywhere; }
.warn { background: var(--warn); }
.warn li { overflow-wrap: anywhere; }
@media (max-width: 900px) { figure.wide { grid-template-columns: minmax(0, 1fr); gap: 0; }
                            .wide img { min-width: 640px; } .wide .narrow { display: block; } }
"""


class Picture(NamedTuple):
    """A thumbnail: its video and what is said of it."""

    video_id: str
    caption: str


class Strip(NamedTuple):
    """Thumbnails of one kind, best example first."""

    heading: str
    note: str
    pictures: list[Picture]


class Drawn(NamedTuple):
    """A chart as PNG files for a light and for a dark page."""

    chart: Chart
    light: bytes
    dark: bytes


def draw(charts: Sequence[Chart]) -> list[Drawn]:
    """Each chart in both themes."""
    logger.info("drawing %d charts", len(charts))
    return [Drawn(chart, as_png(chart.draw(LIGHT)), as_png(chart.draw(DARK))) for chart in charts]


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace files one by one, each whole, in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        partial = folder / f"{name}.partial"
        partial.write_bytes(content)
        os.replace(partial, folder / name)


def page(title: str, lead: str, parts: Iterable[str]) -> str:
    """The whole file. Its policy forbids browsers to load anything from outside."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def tiles(values: Mapping[str, str]) -> str:
    """Large figures with what they count below."""
    cells = [
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in values.items()
    ]
    return f'<div class="tiles">{"".join(cells)}</div>'


def section(heading: str, *content: str) -> str:
    return "\n".join([f"<section><h2>{escape(heading)}</h2>", *content, "</section>"])


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def charts(drawn: Sequence[Drawn]) -> str:
    return f'<div class="charts">{"".join(map(_figure, drawn))}</div>'


def _figure(drawn: Drawn) -> str:
    chart = drawn.chart
    # Where a wide chart scrolls, its own title is cut off: it stands above it too.
    return (
        f'<figure class="chart{" wide" if chart.is_wide else ""}">'
        f'<h3 class="narrow">{escape(chart.title)}</h3><div class="scroll"><picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="{data_uri(drawn.dark, "png")}">'
        f'<img src="{data_uri(drawn.light, "png")}" alt="{escape(chart.title)}"></picture></div>'
        f"<figcaption>{escape(chart.caption)}{_notes(chart.notes)}</figcaption></figure>"
    )


def _notes(notes: Mapping[str, Sequence[str]]) -> str:
    """Short lists below a caption, each with its heading."""
    listed = [
        "".join([f"<dt>{escape(name)}</dt>", *(f"<dd>{escape(line)}</dd>" for line in notes[name])]) for name in notes
    ]
    return f"<dl>{''.join(listed)}</dl>" if listed else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways by itself where the page is narrow."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def card(content: str, kind: str = "") -> str:
    return f'<div class="card {kind}">{content}</div>'


def folded(summary: str, content: str) -> str:
    return card(f"<details><summary>{escape(summary)}</summary>{content}</details>")


def strip(entry: Strip, thumbnails: Mapping[str, bytes], *, missing: str = "") -> str:
    """A row of thumbnails; where one could not be read stands `missing`, or nothing if that is empty."""
    return card(_strip(entry, thumbnails, missing))


def strips(entries: Iterable[Strip], thumbnails: Mapping[str, bytes], *, missing: str = "") -> str:
    """Several rows that belong together."""
    return card("".join(_strip(entry, thumbnails, missing) for entry in entries))


def _strip(entry: Strip, thumbnails: Mapping[str, bytes], missing: str) -> str:
    figures = [
        f"<figure>{_thumbnail(video_id, thumbnails, missing)}"
        f"<figcaption>{escape(video_id)} · {escape(caption)}</figcaption></figure>"
        for video_id, caption in entry.pictures
        if missing or video_id in thumbnails
    ]
    heading = f"<h3>{escape(entry.heading)} <span>{escape(entry.note)}</span></h3>"
    return f'{heading}<div class="strip">{"".join(figures)}</div>'


def _thumbnail(video_id: str, thumbnails: Mapping[str, bytes], missing: str) -> str:
    if video_id not in thumbnails:
        return f'<div class="missing">{escape(missing)}</div>'
    return f'<img src="{data_uri(thumbnails[video_id], "jpeg")}" alt="video {escape(video_id)}" loading="lazy">'


def unreadable(reasons: Mapping[str, str], *, more_in: str, num_named: int = 50) -> str:
    """The videos that could not be read, and why; `more_in` is the file that names them all."""
    items = [f"<li>{escape(key)}: {escape(reason)}</li>" for key, reason in list(reasons.items())[:num_named]]
    if len(reasons) > num_named:
        items.append(f"<li>and {len(reasons) - num_named} more, in {escape(more_in)}</li>")
    return card(f"<ul>{''.join(items)}</ul>", "warn")
