"""Extract features of videos from any layer: `emodiversity features VIDEO_OR_FOLDER ... --checkpoint RUN`."""

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a file: let `import VideoMAE` find the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import VideoMAE  # noqa: F401  # imported first: it reports missing packages

from VideoMAE.cli import UsageError, run
from VideoMAE.inference.config import FeaturesConfig


def extract(config: FeaturesConfig) -> bool:
    """Writes the missing features -> whether every video could be read"""
    if not config.videos and config.list is None:
        raise UsageError("no video, folder or --list is given")
    config.inference.check()
    from VideoMAE.inference.features import extract_to_folder  # deferred: importing torch takes seconds

    return extract_to_folder(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help. Exit status 1 if a video cannot be read."""
    resumes = "run the same command again to resume"
    return run(extract, FeaturesConfig, argv, messages=sys.stderr, description=__doc__, when_stopped=resumes)


if __name__ == "__main__":
    sys.exit(main())
