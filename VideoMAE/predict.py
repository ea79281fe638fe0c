"""Predict how videos make their viewers feel: `emodiversity predict VIDEO_OR_FOLDER ... --checkpoint RUN [RUN]`."""

import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a file: let `import VideoMAE` find the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import VideoMAE  # noqa: F401  # imported first: it reports missing packages

from VideoMAE.cli import UsageError, counted, run
from VideoMAE.inference.config import PredictConfig, check_positive

logger = logging.getLogger(__name__)


def predict(config: PredictConfig) -> bool:
    """Writes the predictions for the videos -> whether all of them could be read

    Raises UsageError for flags that are missing, out of range or contradict each other.
    """
    output = config.output
    if not config.videos:
        raise UsageError("no video or folder is given; list them before --checkpoint")
    if not config.checkpoint:
        raise UsageError("--checkpoint RUN_OR_FILE is missing")
    if config.over_time and output is not None:
        raise UsageError("--over_time writes one file per video to --output_dir; remove --output")
    if config.over_time != (config.output_dir is not None):
        raise UsageError("--over_time and --output_dir need each other")
    check_positive(config, "top", "hop_seconds", "window_seconds")
    config.inference.check()
    logging.getLogger("VideoMAE.training.pretrained").setLevel(logging.WARNING)  # no list of loaded weights
    from VideoMAE.inference.output import write_all_curves, write_predictions
    from VideoMAE.inference.predictor import load_predictor
    from VideoMAE.video.search import find_videos  # deferred: importing torch takes seconds

    videos, num_ignored = find_videos(config.videos)
    others = counted(num_ignored, "other file")
    if not videos:
        raise ValueError(f"no video files in {', '.join(map(str, config.videos))} ({others})")
    if num_ignored:
        logger.info("%s; %s ignored", counted(len(videos), "video"), others)
    if output is not None:  # checked before any video is processed
        if output.is_dir():
            raise ValueError(f"--output {output}: is a folder")
        parent = next(folder for folder in output.absolute().parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise ValueError(f"--output {output}: cannot be written: no permission in {parent}")
    flags = dataclasses.asdict(config.inference)
    predictor = load_predictor(config.checkpoint, compile=config.compile, network_flags=config.network, **flags)
    unreadable = (write_all_curves if config.over_time else write_predictions)(predictor, videos, config)
    if output is not None:
        logger.info("%s: %s", output, counted(len(videos), "video"))
    if unreadable:
        logger.error("unreadable: %d of %s", len(unreadable), counted(len(videos), "video"))
    return not unreadable


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help. Exit status 1 if a video cannot be read."""
    return run(predict, PredictConfig, argv, messages=sys.stderr, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
