"""A web page for trying a trained model: `python -m VideoMAE.demo --checkpoint RUN_OR_FILE [RUN_OR_FILE]`."""

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

if not __package__:  # started as a file: let `import VideoMAE` find the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import VideoMAE  # noqa: F401  # imported first: it reports missing packages

from VideoMAE.cli import run
from VideoMAE.dataset_tools.programs import check_ranges
from VideoMAE.inference.config import NetworkFlags

logger = logging.getLogger("demo")


@dataclass(frozen=True)
class Settings:
    """Serve a web page that predicts how the viewers of a video would feel. No data leaves this machine."""

    checkpoint: tuple[Path, ...]
    """Output folder or checkpoint file of a VCE or a V2V run, or one of each."""
    network: NetworkFlags
    examples: Path | None = None
    """Folder of example videos. None: test videos of the runs."""
    host: str = "127.0.0.1"
    """Address of the server; 0.0.0.0 makes the page available to the whole network."""
    port: int = 7860
    """Port of the server; 0: a free one."""
    max_upload_mb: float = 100
    """Maximum size of an upload, in MiB."""
    max_seconds: float = 60
    """Maximum duration of a video."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the forward pass."""
    compile: bool = False
    """Compile the network: a slower start, faster predictions."""
    num_segments: int | None = None
    """Temporal segments to average. None: as in the run's test."""
    num_crops: int | None = None
    """Spatial crops to average. None: as in the run's test."""


def serve(settings: Settings) -> None:
    """Serves the page until Ctrl-C or SIGTERM. Raises ValueError for wrong flags or files."""
    if not 1 <= len(settings.checkpoint) <= 2:
        raise ValueError(f"--checkpoint takes one or two, not {len(settings.checkpoint)}")
    check_ranges(settings, above_0=("max_upload_mb", "max_seconds"))
    if not 0 <= settings.port <= 65535:
        raise ValueError(f"--port {settings.port}: must be in [0, 65535]")
    if find_spec("gradio") is None:
        constraints = Path(__file__).resolve().parents[1] / "constraints.txt"  # absent in an installed package
        tested = f" -c {constraints}" if constraints.is_file() else ""
        raise ValueError(f"the demo needs Gradio: {sys.executable} -m pip install 'gradio>=6.31,<7'{tested}")
    # no version checks, no telemetry
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    host, port = settings.host, settings.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        hint = "; --port 0 selects a free port" if port else ""
        raise ValueError(f"cannot serve at --host {host} --port {port}: {error.strerror or error}{hint}") from error
    try:
        with listener, tempfile.TemporaryDirectory(prefix="emodiversity-") as temp:
            os.environ["GRADIO_TEMP_DIR"] = temp
            tempfile.tempdir = temp  # also for forms that are being received
            # files are checked before the import of Gradio, which takes seconds
            from VideoMAE.demo_app.answers import Answers, find_examples, read_reference
            from VideoMAE.inference.predictor import load_predictor

            names = ("device", "precision", "compile", "num_segments", "num_crops")
            flags = {name: getattr(settings, name) for name in names}
            predictor = load_predictor(settings.checkpoint, network_flags=settings.network, **flags)
            answers = Answers(predictor, read_reference(settings.checkpoint), max_seconds=settings.max_seconds)
            files = find_examples(settings.checkpoint, settings.examples)

            from VideoMAE.demo_app.page import Page, make_server
            from VideoMAE.demo_app.videos import DemoVideo, Uploads, probe_videos

            examples = []
            for found in probe_videos(files, max_seconds=settings.max_seconds, num_processes=2):
                if isinstance(found, DemoVideo):
                    examples.append(found)
                else:
                    logger.warning("left out of the examples: %s", found)
            page = Page(answers, Uploads(Path(temp) / "uploads"), examples, max_upload_mb=settings.max_upload_mb)
            server = make_server(page)
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            logger.info("the page is at http://%s:%d/, its endpoints at /api; stop with Ctrl-C", shown, port)
            server.run(sockets=[listener])  # connections since the opening of the socket have been waiting
    except KeyboardInterrupt:
        logger.info("stopped; the uploads are removed")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help. -> exit status"""
    return run(serve, Settings, argv)


if __name__ == "__main__":
    sys.exit(main())
