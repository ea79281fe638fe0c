"""Convert checkpoints: ours, the published .pth form, Hugging Face folders, and DeepSpeed folders to one file.

    python models/convert.py output/vce/checkpoint-best.pth vce_huggingface      # for transformers
    python models/convert.py vce_huggingface vce.pth                             # and back
    python models/convert.py output/vce weights.pth --to published               # nothing but weights

What SRC is, is found out: a .pth or .safetensors file, a run's output folder (its best checkpoint), a Hugging Face
folder, a DeepSpeed folder. Weights arrive bit for bit, which is checked by reading them again. Nothing in SRC is
executed; a pickle that could run code is refused.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from VideoMAE.checkpoints import command_line
from VideoMAE.checkpoints.command_line import Report
from VideoMAE.checkpoints.formats import (
    DESCRIPTIONS,
    Checkpoint,
    check_whole,
    inner,
    model_name,
    network_of,
    num_heads,
    read,
)
from VideoMAE.checkpoints.huggingface_folder import BESIDE, LAYER_NORM_EPS, WRITTEN, write_folder
from VideoMAE.modeling_finetune import MODELS
from VideoMAE.training.checkpoint import save

Form = Literal["ours", "published", "huggingface"]


@dataclass(frozen=True)
class Settings:
    """What to convert, and where to."""

    src: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """File or folder to read."""
    dst: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """File (.pth) or folder (Hugging Face) to write."""
    to: Form | None = None
    """ours: weights, epoch, metrics, config; published: nothing but weights; huggingface: a folder for transformers.
    None: ours for a DST that ends in .pth or .pt, else huggingface."""
    model_key: str = "model|module"
    """Keys of a .pth file that may hold the weights; the first that is there wins."""
    num_heads: int | None = None
    """Attention heads, for Hugging Face, where neither the checkpoint nor its size tells."""
    num_frames: int | None = None
    """Frames in a clip, for Hugging Face. None: the checkpoint's, else 16."""
    input_size: int | None = None
    """Side of the square the model sees, pixels, for Hugging Face. None: the checkpoint's, else 224."""
    labels: Path | None = None
    """File with the name of each output, one a line, for Hugging Face. None: the 27 emotions; valence for one."""
    overwrite: bool = False
    """Replace a DST that is there already."""
    json: Annotated[bool, tyro.conf.arg(help="Report as JSON on standard output; the readable one on error.")] = False


def convert(settings: Settings) -> Report:
    """Converts, checks what was written, and tells."""
    form = choose_form(settings)
    source = read(settings.src, model_key=settings.model_key)
    weights = source.our_weights()
    pretraining = any(name.startswith("encoder.") for name in weights)
    check_whole(weights, source.file, encoder_only=pretraining)
    if form == "huggingface":
        if pretraining:
            raise ValueError(f"{source.file}: pre-training weights; only fine-tuned ones go to transformers")
        _to_huggingface(weights, source, settings)
    else:
        kept = {key: source.beside[key] for key in BESIDE if key in source.beside} if form == "ours" else {}
        save(settings.dst, {"model": {name: value.clone() for name, value in weights.items()}, **kept})
    check_equal(read(settings.dst).our_weights(), weights, settings.dst)
    return tell(source, weights, form, settings.dst)


def choose_form(settings: Settings) -> Form:
    """What to write; refuses a DST that does not go with it or is there already."""
    is_file = settings.dst.suffix in (".pth", ".pt")
    form: Form = settings.to or ("ours" if is_file else "huggingface")
    if is_file != (form != "huggingface"):
        wanted = "a folder" if form == "huggingface" else "a file that ends in .pth"
        raise ValueError(f"{settings.dst}: --to {form} writes {wanted}")
    if settings.dst.exists():
        if not settings.overwrite:
            raise ValueError(f"{settings.dst}: is there already; pass --overwrite to replace it")
        if settings.dst.resolve() == settings.src.resolve():
            raise ValueError(f"{settings.dst}: is SRC itself")
        others = {path.name for path in settings.dst.iterdir()} - WRITTEN if settings.dst.is_dir() else set()
        if settings.dst.is_dir() != (form == "huggingface") or others:
            raise ValueError(f"{settings.dst}: holds something else than --to {form} writes, and is left alone")
    return form


def _to_huggingface(weights: Mapping[str, Tensor], source: Checkpoint, settings: Settings) -> None:
    if "pos_embed" in weights:
        raise ValueError(f"{source.file}: learned positions (pos_embed) have no counterpart in transformers")
    network = network_of(weights)
    theirs = inner(source.beside, "huggingface_config")
    data = inner(source.beside, "config", "data")
    name = inner(source.beside, "config", "model").get("model") or model_name(network)
    heads = settings.num_heads or theirs.get("num_attention_heads") or (name in MODELS and num_heads(name))
    if not heads:
        raise ValueError(f"{source.file}: a ViT of width {network['embed_dim']} is of no known size; pass --num_heads")
    if network["embed_dim"] % heads:
        raise ValueError(f"--num_heads {heads} does not divide the width {network['embed_dim']}")
    labels = settings.labels.read_text(encoding="utf-8").splitlines() if settings.labels else _labels(theirs)
    try:
        with new_folder(settings.dst) as folder:
            write_folder(
                folder,
                weights,
                network,
                beside=source.beside,
                num_heads=heads,
                num_frames=settings.num_frames or data.get("num_frames") or theirs.get("num_frames") or 16,
                input_size=settings.input_size or data.get("input_size") or theirs.get("image_size") or 224,
                labels=labels,
            )
    except ValueError as error:
        raise ValueError(f"{source.file}: {error}") from error


def _labels(theirs: Mapping[str, Any]) -> list[str] | None:
    names = inner(theirs, "id2label")
    return [names[key] for key in sorted(names, key=int)] or None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name, and takes an old one's place, only when it is whole and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.partial-") as partial:
        folder, old = Path(partial) / "new", Path(partial) / "old"
        folder.mkdir()
        yield folder
        for file in folder.iterdir():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        if path.exists():
            shutil.move(path, old)
        folder.rename(path)


def check_equal(written: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: Path) -> None:
    """Raises ValueError unless what was written is what was read, bit for bit."""
    if written.keys() != weights.keys():
        raise ValueError(f"{path}: came out with other names: {sorted(written.keys() ^ weights.keys())[:5]}")
    for name, value in weights.items():
        if written[name].dtype != value.dtype or not torch.equal(written[name], value):
            raise ValueError(f"{path}: {name} came out with other values")


def tell(source: Checkpoint, weights: Mapping[str, Tensor], form: Form, dst: Path) -> Report:
    """What was done, in both forms, with what a user should know of it."""
    eps = inner(source.beside, "huggingface_config").get("layer_norm_eps", LAYER_NORM_EPS)
    notes = []
    kept = () if form == "published" else BESIDE
    left = [key for key in source.beside if key not in (*kept, "huggingface_config", "head_bias")]
    if left:
        notes.append(f"left out: {', '.join(left)}")
    if form == "huggingface" and "fc_norm.weight" in weights:
        notes.append("transformers adds 1e-5 in fc_norm where VideoMAE adds 1e-6: predictions differ by that little")
    if form != "huggingface" and eps != LAYER_NORM_EPS:
        notes.append(f"layer_norm_eps was {eps}; here it is always {LAYER_NORM_EPS}")
    if source.beside.get("head_bias") is False and "head.bias" in weights:
        notes.append("the head has got a bias since it left V2V, and keeps it: V2V's network takes none")
    values = {
        "source": str(source.file),
        "source_kind": source.kind,
        "target": str(dst),
        "target_form": form,
        "num_tensors": len(weights),
        "num_parameters": sum(value.numel() for value in weights.values()),
        "notes": notes,
    }
    text = (
        f"{source.file}: {DESCRIPTIONS[source.kind]}\n{dst}: written in the form '{form}': {values['num_tensors']} "
        f"tensors, {values['num_parameters']:,} values, read again and equal bit for bit"
    )
    return Report("\n".join([text, *(f"note: {note}" for note in notes)]), values)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help."""
    return command_line.run(Settings, convert, description=__doc__, argv=argv)
