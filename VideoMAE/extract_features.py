"""Features of any videos from any layer: `python -m VideoMAE.extract_features VIDEO_OR_FOLDER... --checkpoint RUN`."""

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a file: let `import VideoMAE` find the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import VideoMAE  # noqa: F401  # first of all: it names missing packages

import tyro

from VideoMAE.cli import show_messages
from VideoMAE.inference.features_config import FeaturesConfig

INTERRUPTED_STATUS = 130


def check_flags(config: FeaturesConfig) -> str:
    """What is wrong with the flags; "" when nothing is."""
    if not config.videos and config.list is None:
        return "no video, folder or --list is given"
    counts = {name: getattr(config, name) for name in ("batch_size", "num_segments", "num_crops", "decode_seconds")}
    wrong = [
        f"--{name} {value:g}: must be above 0" for name, value in counts.items() if value is not None and value <= 0
    ]
    if config.num_workers < 0:
        wrong.append(f"--num_workers {config.num_workers}: must be at least 0")
    return "; ".join(wrong)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help. -> 0; 1 when a video cannot be read, or on an error, which is said; 2 for wrong
    flags; 130 after Ctrl-C."""
    arguments = sys.argv[1:] if argv is None else argv
    styles = (tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)
    config = tyro.cli(FeaturesConfig, args=arguments, use_underscores=True, config=styles)
    wrong = check_flags(config)
    if wrong:
        sys.stderr.write(f"error: {wrong}; see --help\n")
        return 2
    show_messages(sys.stderr)
    try:
        from VideoMAE.inference.feature_run import run  # only here: torch takes seconds to import

        return 0 if run(config) else 1
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on\n")
        return INTERRUPTED_STATUS


if __name__ == "__main__":
    sys.exit(main())
