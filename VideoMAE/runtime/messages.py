"""What the programs tell their users while they run."""

import logging
from typing import TextIO


def show_messages(stream: TextIO) -> None:
    """Writes the project's log messages to `stream`, one line each, and of torch's only the warnings: interrupted while
    it is being imported, torch would report the statistics of its caches at exit."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=stream)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_for_users)


def _is_for_users(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] != "torch"


def plural(count: int, noun: str) -> str:
    """1, "video" -> "1 video"; 2000, "video" -> "2,000 videos"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
