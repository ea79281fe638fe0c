"""Downloads of published weights, and their verification."""

import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from VideoMAE.checkpoints.formats import check_whole, network_of, page_title, read
from VideoMAE.checkpoints.programs import DownloadSettings, Report
from VideoMAE.files import read_json, sha256_of, write_json
from VideoMAE.training.checkpoint import save

HUB = "https://huggingface.co"
RETRIES = 2
TIMEOUT_SECONDS = 30


def list_or_download(settings: DownloadSettings) -> Report:
    """Prints the catalogue or downloads an entry."""
    entries: dict[str, Any] = read_json(settings.catalogue)
    required = {"what", "source", "file", "licence", "network", "size_bytes", "sha256"}
    for name, entry in entries.items():
        missing = required - (entry.keys() if isinstance(entry, dict) else set())
        if missing:
            raise ValueError(f"{settings.catalogue}: {name} lacks {', '.join(sorted(missing))}")
        if Path(entry["file"]).name != entry["file"]:
            raise ValueError(f"{settings.catalogue}: {name}: file {entry['file']!r} is not a plain file name")
    if settings.list:
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
        return Report("\n\n".join(blocks), {"entries": entries})
    if settings.name not in entries:
        reason = f"no entry {settings.name!r} in {settings.catalogue}" if settings.name else "NAME is missing"
        raise ValueError(f"{reason}; available: {', '.join(entries)} (see --list)")
    return download(settings.name, entries, settings)


def download(name: str, entries: dict[str, Any], settings: DownloadSettings) -> Report:
    """Downloads, verifies and stores an entry's file, or verifies the existing one."""
    entry = entries[name]
    target, partial = settings.output_dir / entry["file"], settings.output_dir / f".download-{name}"
    existed, from_hub = target.exists(), entry["source"] == "huggingface"
    try:
        file = target if existed else fetch(entry, partial)
    except ValueError as error:
        if from_hub:
            address = f"{HUB}/{entry['repo_id']}/resolve/{entry['revision']}/{entry['filename']}"
            steps = f"get {address} on another machine, copy it here"
            steps += f" and run python models/convert.py {entry['filename']} {target}"
        else:
            page = entry.get("url") or f"https://drive.google.com/file/d/{entry['id']}/view"
            steps = f"open {page} in a browser, save the file as {target}"
            steps += f" and run python models/download.py {name}, which verifies it"
        raise ValueError(f"{str(error).rstrip('. ')}. Manual download: {steps}") from error
    measured: dict[str, Any] = {}  # not of the file that was converted from the hub's
    if not (existed and from_hub):
        measured = {"size_bytes": file.stat().st_size, "sha256": sha256_of(file)}
    try:
        weights = verified_weights(file, entry, measured)
    except ValueError as error:
        if existed:
            raise ValueError(f"{error}. The file existed already: move it away to download it again") from error
        shutil.rmtree(partial, ignore_errors=True)
        raise ValueError(f"{error}. The download was deleted, and {target} was not written") from error
    if not existed:
        if from_hub:
            save(target, {"model": weights})
        else:
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
            os.replace(file, target)
        shutil.rmtree(partial, ignore_errors=True)
    status = "exists already, verified" if existed else "downloaded, verified"
    recorded = {key: value for key, value in measured.items() if entry[key] is None} if settings.record else {}
    if recorded:
        entry.update(recorded)
        write_json(settings.catalogue, entries)
    counts = {"num_tensors": len(weights), "num_parameters": sum(value.numel() for value in weights.values())}
    values = {"name": name, "file": str(target), "status": status, **counts, **measured, "recorded": bool(recorded)}
    lines = {
        "weights": f"{counts['num_tensors']} tensors, {counts['num_parameters']:,} finite values, names as expected",
        **measured,
        "licence": entry["licence"],
        **({"recorded in": settings.catalogue} if recorded else {}),
    }
    return Report("\n".join([f"{target}: {status}", *(f"  {key:<11} {value}" for key, value in lines.items())]), values)


def verified_weights(file: Path, entry: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in a file, with the published names.

    Raises ValueError if it is not a checkpoint, another one than that of the catalogue entry, or damaged.
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
    return weights


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

    source = {"url": url} if url else {"id": drive_id}
    options: dict[str, Any] = {"resume": True, "use_cookies": False, "retries": RETRIES, "timeout": TIMEOUT_SECONDS}
    try:
        gdown.download(**source, output=str(target), **options)
    except FileURLRetrievalError as error:
        text = _reason(error).split("You may still be able")[0].removeprefix("Failed to retrieve file url: ")
        raise ValueError(f"Google Drive returned a web page instead of the file (quota, login): {text}") from error
    except (DownloadError, RequestException) as error:
        raise ValueError(f"{url or 'Google Drive'}: {(url and _web_page_at(url)) or _reason(error)}") from error
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
