"""A page to try a trained model on: `python -m VideoMAE.demo --checkpoint RUN_OR_FILE [RUN_OR_FILE]`."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Literal

if not __package__:  # started as a file: let `import VideoMAE` find the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import VideoMAE  # noqa: F401  # first of all: it names missing packages

from VideoMAE.cli import parse_flags, show_messages
from VideoMAE.inference.config import NetworkFlags

logger = logging.getLogger("demo")

# No news of a newer version is asked for, nothing is reported.
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Settings:
    """Show a web page that tells how the viewers of a video would feel. Nothing leaves this machine."""

    checkpoint: tuple[Path, ...]
    """Run's output folder or checkpoint file, of VCE or of V2V; or one of each."""
    network: NetworkFlags
    examples: Path | None = None
    """Folder of videos to pick from; otherwise test videos of the runs."""
    host: str = "127.0.0.1"
    """Address to serve at; with 0.0.0.0 everybody on the network may use the page."""
    port: int = 7860
    """Port to serve at; 0 takes a free one."""
    max_upload_mb: float = 100
    """Largest upload, in MiB."""
    max_seconds: float = 60
    """Longest video."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the forward pass."""
    compile: bool = False
    """Compile the network: a slower start, quicker answers."""
    num_segments: int | None = None
    """Segments along time that are averaged; otherwise the run's own."""
    num_crops: int | None = None
    """Crops along the long side that are averaged; otherwise the run's own."""


def check(settings: Settings) -> None:
    """Raises ValueError for what cannot be, before anything is loaded."""
    if not 1 <= len(settings.checkpoint) <= 2:
        raise ValueError(f"--checkpoint takes one or two, not {len(settings.checkpoint)}")
    for name in ("max_upload_mb", "max_seconds"):
        if not getattr(settings, name) > 0:
            raise ValueError(f"--{name} {getattr(settings, name):g}: must be above 0")
    if not 0 <= settings.port <= 65535:
        raise ValueError(f"--port {settings.port}: must be in [0, 65535]")


def listen(host: str, port: int) -> socket.socket:
    """Raises ValueError: the address is not this machine's, or the port is taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        hint = "; --port 0 takes a free one" if port else ""
        raise ValueError(f"cannot serve at --host {host} --port {port}: {error.strerror or error}{hint}") from error


def run(settings: Settings) -> None:
    """Serve the page until Ctrl-C or SIGTERM. Raises ValueError for a user's mistakes."""
    check(settings)
    if find_spec("gradio") is None:
        constraints = Path(__file__).resolve().parents[1] / "constraints.txt"
        raise ValueError(f"the demo needs Gradio: {sys.executable} -m pip install gradio -c {constraints}")
    os.environ.update(QUIET)
    with listen(settings.host, settings.port) as listener, tempfile.TemporaryDirectory(prefix="emodiversity-") as temp:
        os.environ["GRADIO_TEMP_DIR"] = temp
        tempfile.tempdir = temp  # forms that are being received, too
        serve_page(settings, listener, Path(temp))


def serve_page(settings: Settings, listener: socket.socket, temp: Path) -> None:
    from VideoMAE.demo_app.reference import find_examples, read_reference
    from VideoMAE.inference.predictor import load_predictor

    # what may be wrong with the flags comes before Gradio, which takes seconds to import
    predictor = load_predictor(
        settings.checkpoint,
        device=settings.device,
        precision=settings.precision,
        compile=settings.compile,
        num_segments=settings.num_segments,
        num_crops=settings.num_crops,
        network_flags=settings.network,
    )
    reference = read_reference(settings.checkpoint)
    files = find_examples(settings.checkpoint, settings.examples)

    from VideoMAE.demo_app.answers import Answers
    from VideoMAE.demo_app.page import Page
    from VideoMAE.demo_app.server import make_app, serve
    from VideoMAE.demo_app.videos import Uploads, look_at_examples

    answers = Answers(predictor, reference, max_seconds=settings.max_seconds)
    examples = look_at_examples(files, temp / "examples", max_seconds=settings.max_seconds)
    uploads = Uploads(temp / "uploads")
    page = Page(answers, uploads, examples, max_upload_mb=settings.max_upload_mb)
    app = make_app(page.build(), uploads, max_upload_mb=settings.max_upload_mb, endpoints=page.described_endpoints())
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host

    def say_ready() -> None:
        logger.info("the page is at http://%s:%d/, its endpoints at /api; Ctrl-C ends it", shown, port)

    serve(app, listener, when_ready=say_ready)


def _stop(signal_number: int, _: FrameType | None) -> None:
    """Let a terminated server clean up as an interrupted one does."""
    raise KeyboardInterrupt(signal_number)


def main() -> None:
    """Command line: see --help."""
    settings = parse_flags(Settings, sys.argv[1:])
    show_messages(sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)
    try:
        run(settings)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        logger.info("the page is closed; uploads are removed")


if __name__ == "__main__":
    main()
