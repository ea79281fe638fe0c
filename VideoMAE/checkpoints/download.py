"""Downloads of published weights, and their verification."""

import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from VideoMAE.checkpoints.formats import check_whole, network_of, page_title, read
from VideoMAE.checkpoints.programs import DownloadSettings, Report
from VideoMAE.files import read_json, sha256_of, write_json
from VideoMAE.training.checkpoint import save

HUB = "https://huggingface.co"
RETRIES = 2
TIMEOUT_SECONDS = 30


def list_or_download(settings: DownloadSettings) -> Report:
    """Prints the catalogue or downloads an entry."""
    entries = read_catalogue(settings.catalogue)
    if settings.list:
        return list_entries(entries)
    if settings.name not in entries:
        reason = f"no entry {settings.name!r} in {settings.catalogue}" if settings.name else "NAME is missing"
        raise ValueError(f"{reason}; available: {', '.join(entries)} (see --list)")
    return download(settings.name, entries, settings)


def read_catalogue(path: Path) -> dict[str, Any]:
    """The entries by name. Raises ValueError if the file is missing or not a catalogue."""
    entries = read_json(path)
    required = {"what", "source", "file", "licence", "network", "size_bytes", "sha256"}
    for name, entry in entries.items():
        missing = required - (entry.keys() if isinstance(entry, dict) else set())
        if missing:
            raise ValueError(f"{path}: {name} lacks {', '.join(sorted(missing))}")
        if Path(entry["file"]).name != entry["file"]:
            raise ValueError(f"{path}: {name}: file {entry['file']!r} is not a plain file name")
    return entries


def list_entries(entries: Mapping[str, Any]) -> Report:
    """The catalogue as text."""
    blocks = []
    for name, entry in entries.items():
        lines = {
            "what": entry["what"],
            "file": entry["file"],
            "from": entry.get("repo_id") or entry.get("url") or f"Google Drive, id {entry['id']}",
            "size": "not recorded yet" if entry["size_bytes"] is None else f"{entry['size_bytes']:,} bytes",
            "sha256": entry["sha256"] or "not recorded yet",
            "licence": entry["licence"],
        }
        blocks.append("\n".join([name, *(f"  {key:<9}{value}" for key, value in lines.items())]))
    return Report("\n\n".join(blocks), {"entries": dict(entries)})


def download(name: str, entries: dict[str, Any], settings: DownloadSettings) -> Report:
    """Downloads, verifies and stores an entry's file, or verifies the existing one."""
    entry = entries[name]
    target, partial = settings.output_dir / entry["file"], settings.output_dir / f".download-{name}"
    existed, from_hub = target.exists(), entry["source"] == "huggingface"
    try:
        file = target if existed else fetch(entry, partial)
    except ValueError as error:
        raise ValueError(f"{str(error).rstrip('. ')}. {manual_steps(entry, target, name)}") from error
    is_converted = existed and from_hub
    measured = {} if is_converted else {"size_bytes": file.stat().st_size, "sha256": sha256_of(file)}
    try:
        counts = verify(file, entry, measured)
    except ValueError as error:
        if existed:
            raise ValueError(f"{error}. The file existed already: move it away to download it again") from error
        shutil.rmtree(partial, ignore_errors=True)
        raise ValueError(f"{error}. The download was deleted, and {target} was not written") from error
    if not existed:
        if from_hub:
            save(target, {"model": read(file).our_weights()})
        else:
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
            os.replace(file, target)
        shutil.rmtree(partial, ignore_errors=True)
    status = "exists already, verified" if existed else "downloaded, verified"
    missing = {key: value for key, value in measured.items() if entry[key] is None} if settings.record else {}
    if missing:
        entry.update(missing)
        write_json(settings.catalogue, entries)
    values = {"name": name, "file": str(target), "status": status, **counts, **measured, "recorded": bool(missing)}
    lines = {
        "weights": f"{counts['num_tensors']} tensors, {counts['num_parameters']:,} finite values, names as expected",
        **measured,
        "licence": entry["licence"],
        **({"recorded in": settings.catalogue} if missing else {}),
    }
    return Report("\n".join([f"{target}: {status}", *(f"  {key:<11} {value}" for key, value in lines.items())]), values)


def verify(file: Path, entry: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, int]:
    """Compares a file with its catalogue entry -> the number of its tensors and values.

    Raises ValueError if it is not a checkpoint, another one, or damaged.
    """
    weights = read(file).our_weights()
    for key, value in measured.items():
        if entry[key] is not None and entry[key] != value:
            raise ValueError(f"{file}: {key} is {value}, expected {entry[key]}: another file or a damaged one")
    check_whole(weights, file, encoder_only=True)
    network = network_of({name.removeprefix("encoder."): value for name, value in weights.items()})
    for key, expected in entry["network"].items():
        if network[key] != expected:
            raise ValueError(f"{file}: {key} is {network[key]}, expected {expected}: another network")
    return {"num_tensors": len(weights), "num_parameters": sum(value.numel() for value in weights.values())}


def fetch(entry: Mapping[str, Any], folder: Path) -> Path:
    """Downloads a catalogue entry into `folder`, resuming an earlier attempt -> the file.

    Raises ValueError if the source cannot be reached, the connection breaks, or the answer is a web page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if entry["source"] == "google_drive":
        return _transfer(folder / "download.pth", url=entry.get("url"), drive_id=entry.get("id"))
    if entry["source"] != "huggingface":
        raise ValueError(f"the catalogue has an unknown source {entry['source']!r}")
    # The hub gives the checksum. Its own library cannot resume, so gdown transfers.
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    endpoint = os.environ.get("HF_ENDPOINT", HUB)
    address = hf_hub_url(**{key: entry[key] for key in ("repo_id", "filename", "revision")}, endpoint=endpoint)
    try:
        expected = get_hf_file_metadata(address, endpoint=endpoint, timeout=TIMEOUT_SECONDS)
    except (OSError, RuntimeError, errors.HTTPError) as error:
        raise ValueError(f"{address}: {_web_page_at(address) or _reason(error)}") from error
    if expected.etag is None:
        raise ValueError(f"{address}: {_web_page_at(address) or 'not a Hugging Face hub: it returns no ETag'}")
    file = _transfer(folder / f"download{Path(entry['filename']).suffix}", url=address)
    if re.fullmatch("[0-9a-f]{64}", expected.etag) and sha256_of(file) != expected.etag:
        shutil.rmtree(folder, ignore_errors=True)
        raise ValueError(f"{address}: the checksum of the download differs from the hub's; try again")
    return file


def _transfer(target: Path, *, url: str | None, drive_id: str | None = None) -> Path:
    """Downloads an address, or a Google Drive id, with gdown, which resumes."""
    import gdown
    from gdown.exceptions import DownloadError, FileURLRetrievalError
    from requests.exceptions import RequestException

    try:
        source = {"url": url} if url else {"id": drive_id}
        gdown.download(
            **source, output=str(target), resume=True, use_cookies=False, retries=RETRIES, timeout=TIMEOUT_SECONDS
        )
    except FileURLRetrievalError as error:
        text = _reason(error).split("You may still be able")[0].removeprefix("Failed to retrieve file url: ")
        raise ValueError(f"Google Drive returned a web page instead of the file (quota, login): {text}") from error
    except (DownloadError, RequestException) as error:
        page = _web_page_at(url) if url else None
        raise ValueError(f"{url or 'Google Drive'}: {page or _reason(error)}") from error
    return target


def _web_page_at(address: str) -> str | None:
    """A description of the web page that an address returns; None if it returns something else."""
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer:
            kind, start = answer.headers.get_content_type(), answer.read(2**16)
    except urllib.error.HTTPError as error:
        kind, start = error.headers.get_content_type(), error.read(2**16)
    except (OSError, ValueError):
        return None
    if kind != "text/html":
        return None
    return f"returned a web page{page_title(start)} instead of the file: a quota, login or proxy page"


def _reason(error: BaseException) -> str:
    """The reason of a failed download in one line: the system's if the server cannot be reached, else the library's."""
    first = error
    while (before := first.__cause__ or first.__context__) is not None:
        first = before
    if isinstance(first, OSError) and first.errno is not None:
        return f"cannot be reached: {first.strerror or first}"
    return " ".join(str(error).split()) or type(error).__name__


def manual_steps(entry: Mapping[str, Any], target: Path, name: str) -> str:
    """Instructions for a manual download."""
    if entry["source"] == "huggingface":
        address = f"{HUB}/{entry['repo_id']}/resolve/{entry['revision']}/{entry['filename']}"
        steps = f"get {address} on another machine, copy it here"
        return f"Manual download: {steps} and run python models/convert.py {entry['filename']} {target}"
    page = entry.get("url") or f"https://drive.google.com/file/d/{entry['id']}/view"
    steps = f"open {page} in a browser, save the file as {target}"
    return f"Manual download: {steps} and run python models/download.py {name}, which verifies it"
