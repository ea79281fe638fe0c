"""The programs in models/: their flags, reports and exit status. The work is imported when it starts."""

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from VideoMAE import cli

JSONFlag = Annotated[bool, tyro.conf.arg(help="Report as JSON on stdout, and as text on stderr.")]
Format = Literal["ours", "published", "huggingface"]
WEIGHTS_FOLDER = (Path(__file__).parents[1] / "models").resolve()

INSPECT_HELP = """Describe a checkpoint, without executing code in it.

    emodiversity inspect models/kinetics400-ViTB-1600-16x5x3-pretrain.pth
    emodiversity inspect output/vce --names

FILE is a .pth or .safetensors file, a run's output folder (its best checkpoint), a Hugging Face folder or a DeepSpeed
folder. Prints its kind, size and checksum, the network, the weights (`--names`: each one), non-finite values, and the
other entries: epoch, metrics, configuration. The exit status is 0 if all values are finite.
"""

CONVERT_HELP = """\
Convert checkpoints between this project's and the published .pth format, Hugging Face and DeepSpeed folders.

    emodiversity convert output/vce/checkpoint-best.pth vce_huggingface    # for transformers
    emodiversity convert vce_huggingface vce.pth                           # and back
    emodiversity convert output/vce weights.pth --to published             # weights only

The format of SRC is detected: a .pth or .safetensors file, a run's output folder (its best checkpoint), a Hugging Face
folder, a DeepSpeed folder. The result is read again and compared bit for bit. No code in SRC is executed; a pickle that
could execute code is refused.

Two differences remain in transformers: its `fc_norm` adds 1e-5 to the variance instead of VideoMAE's 1e-6, and its
image processor antialiases when it downscales frames, OpenCV does not.
"""

DOWNLOAD_HELP = """Download published weights and verify them.

    emodiversity download --list
    emodiversity download kinetics400-vitb-1600                # the original file, from Google Drive
    emodiversity download kinetics400-vitb-1600-huggingface    # the same weights from the Hugging Face hub

catalogue.json lists the available weights. An interrupted download is resumed. A file gets its final name only when it
is complete and has the names, shapes and finite values of the catalogue's network, and the recorded size and checksum
if there are any (`--record`). An existing file is verified and left unchanged. HF_ENDPOINT sets a mirror of the hub.
The weights are CC BY-NC 4.0.
"""


class Report(NamedTuple):
    """The result of a program as text and as JSON values; `problem` is the error message, if any."""

    text: str
    values: dict[str, Any]
    problem: str = ""


@dataclass(frozen=True)
class InspectSettings:
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Checkpoint: a file or a folder."""
    names: bool = False
    """List every weight; otherwise blocks with equal shapes share a line."""
    model_key: str = "model|module"
    """Keys of a .pth file that may contain the weights; the first existing one is used."""
    json: JSONFlag = False


@dataclass(frozen=True)
class ConvertSettings:
    src: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """File or folder to read."""
    dst: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """File (.pth) or folder (Hugging Face) to write."""
    to: Format | None = None
    """ours: weights, epoch, metrics, config; published: weights only; huggingface: a folder for transformers. None:
    ours if DST ends in .pth or .pt, else huggingface."""
    model_key: str = "model|module"
    """Keys of a .pth file that may contain the weights; the first existing one is used."""
    num_heads: int | None = None
    """Number of attention heads, for Hugging Face, if the checkpoint does not determine it."""
    num_frames: int | None = None
    """Frames per clip, for Hugging Face. None: the checkpoint's, else 16."""
    input_size: int | None = None
    """Side of the square input in pixels, for Hugging Face. None: the checkpoint's, else 224."""
    labels: Path | None = None
    """File with one output name per line, for Hugging Face. None: the 27 emotions, or valence for one output."""
    overwrite: bool = False
    """Replace an existing DST."""
    json: JSONFlag = False


@dataclass(frozen=True)
class DownloadSettings:
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """Entry of the catalogue."""
    list: bool = False
    """Print the catalogue."""
    record: bool = False
    """Store size and checksum of the downloaded file in the catalogue, if it has none yet."""
    output_dir: Path = WEIGHTS_FOLDER
    """Folder for the weights."""
    catalogue: Path = WEIGHTS_FOLDER / "catalogue.json"
    """File that lists the available weights."""
    json: JSONFlag = False


def _run(work: str, settings_type: type, description: str, argv: Sequence[str] | None = None) -> int:
    """Prints the report of a function of this package, "module:name" -> exit status, 0 if there is no problem.

    With --json, stdout gets one JSON object and stderr the text.
    """

    def print_report(settings: Any) -> bool:
        stopped = False
        try:
            module, _, function = work.partition(":")
            report = getattr(importlib.import_module(f"VideoMAE.checkpoints.{module}"), function)(settings)
        except (ValueError, OSError) as error:
            report = Report("", {}, str(error))
        except KeyboardInterrupt:
            report, stopped = Report("", {}, "stopped"), True
        if report.text:
            (sys.stderr if settings.json else sys.stdout).write(report.text + "\n")
        if settings.json:
            content = {"ok": not report.problem, "problem": report.problem, **report.values}
            sys.stdout.write(json.dumps(content, indent=2) + "\n")
        sys.stdout.flush()
        if stopped:
            raise KeyboardInterrupt
        if report.problem:
            sys.stderr.write(f"error: {report.problem}\n")
        return not report.problem

    again = "repeat the command to resume"
    return cli.run(print_report, settings_type, argv, messages=sys.stderr, description=description, when_stopped=again)


# The programs, called with a command line (default: this process's).
inspect = partial(_run, "inspect_checkpoint:inspect", InspectSettings, INSPECT_HELP)
convert = partial(_run, "convert:convert", ConvertSettings, CONVERT_HELP)
download = partial(_run, "download:list_or_download", DownloadSettings, DOWNLOAD_HELP)
