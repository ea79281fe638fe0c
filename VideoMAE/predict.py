"""Ask trained networks of any videos: `python -m VideoMAE.predict VIDEO_OR_FOLDER... --checkpoint RUN [RUN]`."""

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if not __package__:  # started as a file: let `import VideoMAE` find the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import VideoMAE  # noqa: F401  # first of all: it names missing packages

import tyro
from tqdm import tqdm

from VideoMAE.cli import show_messages
from VideoMAE.inference.config import PredictConfig

if TYPE_CHECKING:
    from VideoMAE.inference.predictor import Predictor

logger = logging.getLogger(__name__)

INTERRUPTED_STATUS = 130


def predict(config: PredictConfig) -> bool:
    """Writes what the networks say of the videos. -> whether every one of them could be read"""
    from VideoMAE.inference.predictor import load_predictor
    from VideoMAE.video.search import find_videos  # only here, and so below: torch takes seconds to import

    videos, num_ignored = find_videos(config.videos)
    if not videos:
        raise ValueError(f"no video files in {', '.join(map(str, config.videos))} ({num_ignored} other files)")
    if num_ignored:
        logger.info("%d videos; %d other files are ignored", len(videos), num_ignored)
    check_writable(config.output)
    predictor = load_predictor(
        config.checkpoint,
        device=config.device,
        precision=config.precision,
        compile=config.compile,
        num_segments=config.num_segments,
        num_crops=config.num_crops,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        decode_seconds=config.decode_seconds,
        network_flags=config.network,
    )
    write = write_all_curves if config.over_time else write_predictions
    unreadable = write(predictor, videos, config)
    if unreadable:
        logger.error("%d of %d videos cannot be read", len(unreadable), len(videos))
    return not unreadable


def write_predictions(predictor: "Predictor", videos: Sequence[Path], config: PredictConfig) -> list[Path]:
    """Writes one entry a video to --output, or to standard output as soon as it is there. -> the unreadable videos"""
    from VideoMAE.files import write_text
    from VideoMAE.inference.output import Lines

    lines = Lines(predictor, format=config.format, top=config.top, bar=_bar(config))
    texts: list[str] = []
    unreadable: list[Path] = []
    with _progress(len(videos)) as progress:

        def put(text: str) -> None:
            if config.output is not None:
                texts.append(text)
            elif text:
                progress.write(text, file=sys.stdout, end="")
                sys.stdout.flush()

        put(lines.header())
        for prediction in predictor.stream(videos):
            progress.update()
            if prediction.error is not None:
                unreadable.append(prediction.path)
                progress.write(f"unreadable: {prediction.path}: {prediction.error}", file=sys.stderr)
            put(lines.of(prediction))
    if config.output is not None:
        write_text(config.output, "".join(texts))
        logger.info("%s: %d videos", config.output, len(videos))
    return unreadable


def write_all_curves(predictor: "Predictor", videos: Sequence[Path], config: PredictConfig) -> list[Path]:
    """Writes every video's curves and their plot into --output_dir. -> the unreadable videos"""
    from VideoMAE.inference.output import write_curves
    from VideoMAE.video.check import check_videos
    from VideoMAE.video.reader import UnreadableVideoError

    assert config.output_dir is not None
    unreadable: list[Path] = []
    reasons: dict[str, str] = {}
    if config.num_workers:  # in processes of their own, which a video that hangs its decoder cannot stop
        reasons = check_videos(
            {str(path): path for path in videos},
            num_processes=config.num_workers,
            limit_seconds=config.decode_seconds,
        ).unreadable
    suffix = ".jsonl" if config.format == "jsonl" else ".csv"
    with _progress(len(videos)) as progress:
        for path, name in zip(videos, distinct_names(videos), strict=True):
            file = config.output_dir / f"{name}{suffix}"
            try:
                if str(path) in reasons:
                    raise UnreadableVideoError(path, reasons[str(path)])
                curves = predictor.over_time(path, window_seconds=config.window_seconds, hop_seconds=config.hop_seconds)
            except UnreadableVideoError as error:
                unreadable.append(path)
                progress.write(f"unreadable: {path}: {error.reason}", file=sys.stderr)
                progress.write(f"{path}: cannot be read: {error.reason}", file=sys.stdout)
            else:
                write_curves(curves, file, top=config.top)
                windows = len(curves.times_seconds)
                progress.write(f"{path}: {windows} windows: {file}, {file.with_suffix('.png').name}", file=sys.stdout)
            progress.update()
    return unreadable


def distinct_names(videos: Sequence[Path]) -> list[str]:
    """A file name for each video: its own without suffix, with a number where that is taken. `a/x.mp4, b/x.avi` -> x,
    x-2."""
    names: list[str] = []
    taken: set[str] = set()
    for path in videos:
        number, name = 1, path.stem
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        names.append(name)
    return names


def check_writable(output: Path | None) -> None:
    """Raises ValueError when a file that is written at the end could not be: before hours of work rather than after."""
    if output is None:
        return
    if output.is_dir():
        raise ValueError(f"--output {output}: is a folder")
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"--output {output}: cannot be written: no permission in {parent}")


def _progress(num_videos: int) -> Any:
    """A bar on standard error where that is a terminal."""
    return tqdm(total=num_videos, unit="video", file=sys.stderr, disable=None)


def _bar(config: PredictConfig) -> str:
    """What bars are made of: blocks where the output can show them."""
    encoding = "utf-8" if config.output is not None else sys.stdout.encoding
    try:
        "█".encode(encoding)
    except UnicodeError:
        return "#"
    return "█"


def check_flags(config: PredictConfig) -> str:
    """What is wrong with the flags; "" when nothing is."""
    if not config.videos:
        return "no video or folder is given; they come before --checkpoint"
    if not config.checkpoint:
        return "--checkpoint RUN_OR_FILE is missing"
    if config.over_time and config.output is not None:
        return "--over_time writes a file for each video, into --output_dir, and takes no --output"
    if config.over_time != (config.output_dir is not None):
        return "--over_time and --output_dir go together"
    for name in ("top", "batch_size", "hop_seconds", "window_seconds", "decode_seconds", "num_segments", "num_crops"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            return f"--{name} {value:g}: must be above 0"
    return "" if config.num_workers >= 0 else f"--num_workers {config.num_workers}: must be at least 0"


def end_workers_and_stop(signal_number: int, _: FrameType | None) -> None:
    """Ctrl-C: a worker that lived on would complain of a batch that is no longer fetched."""
    for worker in multiprocessing.active_children():
        worker.kill()
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help. -> 0; 1 when a video cannot be read, or on an error, which is said; 2 for wrong
    flags; 130 after Ctrl-C."""
    config = tyro.cli(
        PredictConfig,
        args=sys.argv[1:] if argv is None else argv,
        use_underscores=True,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff),
    )
    wrong = check_flags(config)
    if wrong:
        sys.stderr.write(f"error: {wrong}; see --help\n")
        return 2
    show_messages(sys.stderr)
    logging.getLogger("VideoMAE.training.pretrained").setLevel(logging.WARNING)  # how many weights: all of them
    before = signal.signal(signal.SIGINT, end_workers_and_stop)
    try:
        return 0 if predict(config) else 1
    except BrokenPipeError:  # whoever read has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return INTERRUPTED_STATUS
    finally:
        signal.signal(signal.SIGINT, before)
    return 1


if __name__ == "__main__":
    sys.exit(main())
