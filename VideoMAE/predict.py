"""Predict how videos make their viewers feel: `emodiversity predict VIDEO_OR_FOLDER ... --checkpoint RUN [RUN]`."""

import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # started as a file: let `import VideoMAE` find the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import VideoMAE  # noqa: F401  # imported first: it reports missing packages

from tqdm import tqdm

from VideoMAE.cli import UsageError, counted, run
from VideoMAE.inference.config import PredictConfig, check_positive

if TYPE_CHECKING:
    from VideoMAE.inference.predictor import Predictor

logger = logging.getLogger(__name__)


def predict(config: PredictConfig) -> bool:
    """Writes the predictions for the videos -> whether all of them could be read"""
    check_flags(config)
    logging.getLogger("VideoMAE.training.pretrained").setLevel(logging.WARNING)  # no list of loaded weights
    from VideoMAE.inference.predictor import load_predictor
    from VideoMAE.video.search import find_videos  # deferred, here and below: importing torch takes seconds

    videos, num_ignored = find_videos(config.videos)
    if not videos:
        raise ValueError(
            f"no video files in {', '.join(map(str, config.videos))} ({counted(num_ignored, 'other file')})"
        )
    if num_ignored:
        logger.info("%s; %s ignored", counted(len(videos), "video"), counted(num_ignored, "other file"))
    check_writable(config.output)
    predictor = load_predictor(
        config.checkpoint,
        compile=config.compile,
        network_flags=config.network,
        **dataclasses.asdict(config.inference),
    )
    write = write_all_curves if config.over_time else write_predictions
    unreadable = write(predictor, videos, config)
    if unreadable:
        logger.error("unreadable: %d of %s", len(unreadable), counted(len(videos), "video"))
    return not unreadable


def write_predictions(predictor: "Predictor", videos: Sequence[Path], config: PredictConfig) -> list[Path]:
    """Writes one entry per video to --output at the end, or to standard output immediately -> the unreadable videos"""
    from VideoMAE.files import write_text
    from VideoMAE.inference.output import PredictionFormatter

    formatter = PredictionFormatter(predictor, format=config.format, top=config.top, bar=_bar(config))
    texts: list[str] = []
    unreadable: list[Path] = []
    with _progress(len(videos)) as progress:

        def put(text: str) -> None:
            if config.output is not None:
                texts.append(text)
            elif text:
                progress.write(text, file=sys.stdout, end="")
                sys.stdout.flush()

        put(formatter.header())
        for prediction in predictor.stream(videos):
            progress.update()
            if prediction.error is not None:
                unreadable.append(prediction.path)
                progress.write(f"unreadable: {prediction.path}: {prediction.error}", file=sys.stderr)
            put(formatter.text_of(prediction))
    if config.output is not None:
        write_text(config.output, "".join(texts))
        logger.info("%s: %s", config.output, counted(len(videos), "video"))
    return unreadable


def write_all_curves(predictor: "Predictor", videos: Sequence[Path], config: PredictConfig) -> list[Path]:
    """Writes the curves of every video and their plot to --output_dir -> the unreadable videos"""
    from VideoMAE.inference.output import write_curves
    from VideoMAE.video.check import check_videos
    from VideoMAE.video.reader import UnreadableVideoError

    assert config.output_dir is not None
    unreadable: list[Path] = []
    reasons: dict[str, str] = {}
    if config.inference.num_workers:  # in separate processes with a time limit, because a video may hang its decoder
        reasons = check_videos(
            {str(path): path for path in videos},
            num_processes=config.inference.num_workers,
            limit_seconds=config.inference.decode_seconds,
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
                windows = counted(len(curves.times_seconds), "window")
                progress.write(f"{path}: {windows}: {file}, {file.with_suffix('.png').name}", file=sys.stdout)
            progress.update()
    return unreadable


def distinct_names(videos: Sequence[Path]) -> list[str]:
    """A file name for each video: its own without suffix, numbered if it is not unique. `a/x.mp4, b/x.avi` -> x, x-2"""
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
    """Raises ValueError if the output file cannot be written, before any video is processed."""
    if output is None:
        return
    if output.is_dir():
        raise ValueError(f"--output {output}: is a folder")
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"--output {output}: cannot be written: no permission in {parent}")


def _progress(num_videos: int) -> Any:
    """A progress bar on standard error, if that is a terminal."""
    return tqdm(total=num_videos, unit="video", file=sys.stderr, disable=None)


def _bar(config: PredictConfig) -> str:
    """The character of bars: a block if the encoding of the output has it."""
    encoding = "utf-8" if config.output is not None else sys.stdout.encoding
    try:
        "█".encode(encoding)
    except UnicodeError:
        return "#"
    return "█"


def check_flags(config: PredictConfig) -> None:
    """Raises UsageError for flags that are missing, out of range or contradict each other."""
    if not config.videos:
        raise UsageError("no video or folder is given; list them before --checkpoint")
    if not config.checkpoint:
        raise UsageError("--checkpoint RUN_OR_FILE is missing")
    if config.over_time and config.output is not None:
        raise UsageError("--over_time writes one file per video to --output_dir; remove --output")
    if config.over_time != (config.output_dir is not None):
        raise UsageError("--over_time and --output_dir need each other")
    check_positive(config, "top", "hop_seconds", "window_seconds")
    config.inference.check()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help. Exit status 1 if a video cannot be read."""
    return run(predict, PredictConfig, argv, messages=sys.stderr, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
