"""Download published weights, whole and checked.

    python models/download.py --list
    python models/download.py kinetics400-vitb-1600                # the original file, from Google Drive
    python models/download.py kinetics400-vitb-1600-huggingface    # the same weights from the Hugging Face hub

catalogue.json says what there is. An interrupted download goes on where it stopped. A file gets its name only when it
is whole and holds the names, shapes and finite values that the catalogue promises, with the size and checksum once
these are recorded (`--record`). A file that is there already is checked and left as it is. HF_ENDPOINT names a mirror
of the hub. The weights are CC BY-NC 4.0.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from VideoMAE.checkpoints import command_line, fetch
from VideoMAE.checkpoints.command_line import Report
from VideoMAE.checkpoints.formats import check_whole, network_of, read, sha256
from VideoMAE.files import write_text
from VideoMAE.training.checkpoint import save

MODELS = Path(__file__).resolve().parents[1] / "models"


@dataclass(frozen=True)
class Settings:
    """What to download, and where to."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """Entry of the catalogue."""
    list: bool = False
    """Show the catalogue."""
    record: bool = False
    """Store size and checksum of the downloaded file in the catalogue, where it has none yet."""
    output_dir: Path = MODELS
    """Folder for the weights."""
    catalogue: Path = MODELS / "catalogue.json"
    """File that says what there is."""
    json: Annotated[bool, tyro.conf.arg(help="Report as JSON on standard output; the readable one on error.")] = False


def work(settings: Settings) -> Report:
    """Lists or downloads."""
    entries = read_catalogue(settings.catalogue)
    if settings.list:
        return list_entries(entries)
    if settings.name not in entries:
        asked = f"no entry {settings.name!r} in {settings.catalogue}" if settings.name else "NAME is missing"
        raise ValueError(f"{asked}; there are {', '.join(entries)} (see --list)")
    return download(settings.name, entries, settings)


def read_catalogue(path: Path) -> dict[str, Any]:
    """The entries by name.

    Raises:
        ValueError: the file is missing or no catalogue.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no readable catalogue: {error}") from error
    needed = {"what", "source", "file", "licence", "network", "size_bytes", "sha256"}
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError(f"{path}: expected an object of entries by name")
    for name, entry in entries.items():
        if needed - entry.keys():
            raise ValueError(f"{path}: {name} lacks {', '.join(sorted(needed - entry.keys()))}")
        if Path(entry["file"]).name != entry["file"]:
            raise ValueError(f"{path}: {name}: file {entry['file']!r} is no plain file name")
    return entries


def list_entries(entries: Mapping[str, Any]) -> Report:
    """The catalogue for people."""
    blocks = []
    for name, entry in entries.items():
        size = "not recorded yet" if entry["size_bytes"] is None else f"{entry['size_bytes']:,} bytes"
        lines = {
            "what": entry["what"],
            "file": entry["file"],
            "from": entry.get("repo_id") or entry.get("url") or f"Google Drive, id {entry['id']}",
            "size": size,
            "sha256": entry["sha256"] or "not recorded yet",
            "licence": entry["licence"],
        }
        blocks.append("\n".join([name, *(f"  {key:<9}{value}" for key, value in lines.items())]))
    return Report("\n\n".join(blocks), {"entries": dict(entries)})


def download(name: str, entries: dict[str, Any], settings: Settings) -> Report:
    """Fetches, checks, converts and names an entry's file, or checks the one that is there."""
    entry = entries[name]
    target, partial = settings.output_dir / entry["file"], settings.output_dir / f".download-{name}"
    from_hub = entry["source"] == "huggingface"
    if target.exists():
        measured = {} if from_hub else measure(target)
        try:
            held = check(target, entry, measured)
        except ValueError as error:
            raise ValueError(f"{error}. It was there already: move it away to download it again") from error
        status = "is there already, and whole"
    else:
        try:
            file = fetch.fetch(entry, partial)
        except ValueError as error:
            raise ValueError(f"{str(error).rstrip('. ')}. {fetch.by_hand(entry, target, name)}") from error
        try:
            measured = measure(file)
            held = check(file, entry, measured)
        except ValueError as error:
            fetch.clear(partial)
            raise ValueError(f"{error}. What came is deleted, and {target} not written") from error
        keep(file, target, convert=from_hub)
        fetch.clear(partial)
        status = "downloaded and whole"
    recorded = settings.record and record(name, entries, measured, settings.catalogue)
    values = {"name": name, "file": str(target), "status": status, **held, **measured, "recorded": recorded}
    lines = [
        f"{target}: {status}",
        f"  weights     {held['num_tensors']} tensors, {held['num_parameters']:,} values, all finite; "
        "the encoder's names and shapes are those of the network",
        *(f"  {key:<11} {value}" for key, value in measured.items()),
        f"  licence     {entry['licence']}",
        *([f"  recorded in {settings.catalogue}"] if recorded else []),
    ]
    return Report("\n".join(lines), values)


def measure(file: Path) -> dict[str, Any]:
    """Size and checksum."""
    return {"size_bytes": file.stat().st_size, "sha256": sha256(file)}


def check(file: Path, entry: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, int]:
    """Holds a file against its catalogue entry -> how many tensors and values it holds.

    Raises:
        ValueError: it is no checkpoint, or another one, or damaged.
    """
    weights = read(file).our_weights()
    for key, value in measured.items():
        if entry[key] is not None and entry[key] != value:
            raise ValueError(
                f"{file}: {key} is {value}, the catalogue says {entry[key]}: another file or a damaged one"
            )
    check_whole(weights, file, encoder_only=True)
    network = network_of({name.removeprefix("encoder."): value for name, value in weights.items()})
    for key, expected in entry["network"].items():
        if network[key] != expected:
            raise ValueError(f"{file}: {key} is {network[key]}, the catalogue says {expected}: another network")
    return {"num_tensors": len(weights), "num_parameters": sum(value.numel() for value in weights.values())}


def keep(file: Path, target: Path, *, convert: bool) -> None:
    """Gives a checked file its name, on the disk, whole or not at all; the hub's under the published names."""
    if convert:
        save(target, {"model": read(file).our_weights()})
        return
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    os.replace(file, target)


def record(name: str, entries: dict[str, Any], measured: Mapping[str, Any], catalogue: Path) -> bool:
    """Stores what the catalogue does not know yet -> whether there was such."""
    new = {key: value for key, value in measured.items() if entries[name][key] is None}
    if new:
        entries[name].update(new)
        write_text(catalogue, json.dumps(entries, indent=2) + "\n")
    return bool(new)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help."""
    return command_line.run(Settings, work, description=__doc__, argv=argv)
