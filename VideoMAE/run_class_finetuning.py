"""Fine-tune a VideoMAE ViT on VCE, or test one: `python -m VideoMAE.run_class_finetuning --help`."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

if not __package__:  # started as a file: let `import VideoMAE` find the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import VideoMAE  # noqa: F401  # imported first: it reports missing packages

from VideoMAE.cli import parse_flags
from VideoMAE.config import VCEConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see --help."""
    argv = sys.argv[1:] if argv is None else argv
    config = parse_flags(VCEConfig, argv)
    from VideoMAE.training.finetune_vce import run  # deferred: importing torch takes seconds
    from VideoMAE.training.setup import start_and_run

    start_and_run(partial(run, argv=argv), config)


if __name__ == "__main__":
    main()
