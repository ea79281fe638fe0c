"""Files from Google Drive and from the Hugging Face hub, resumed where an earlier try broke off."""

import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from VideoMAE.checkpoints.formats import sha256

HUB = "https://huggingface.co"
RETRIES = 2
TIMEOUT_SECONDS = 30


def fetch(entry: Mapping[str, Any], folder: Path) -> Path:
    """Downloads a catalogue entry into `folder`, where what has come stays for the next try -> the file.

    Raises:
        ValueError: the source cannot be reached, breaks off, or answers with a web page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if entry["source"] == "google_drive":
        return _transfer(folder / "download.pth", url=entry.get("url"), drive_id=entry.get("id"))
    if entry["source"] == "huggingface":
        return _from_hub(entry, folder)
    raise ValueError(f"the catalogue names an unknown source {entry['source']!r}")


def _from_hub(entry: Mapping[str, Any], folder: Path) -> Path:
    """Asks the hub what the file is and holds what comes against it. The hub's own library begins anew after a break,
    so gdown transfers."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    place = {key: entry[key] for key in ("repo_id", "filename", "revision")}
    address = hf_hub_url(**place, endpoint=os.environ.get("HF_ENDPOINT", HUB))
    try:
        promised = get_hf_file_metadata(address, endpoint=os.environ.get("HF_ENDPOINT", HUB), timeout=TIMEOUT_SECONDS)
    except (OSError, RuntimeError, errors.HTTPError) as error:
        raise ValueError(f"{address}: {_web_page_at(address) or _reason(error)}") from error
    if promised.etag is None:
        raise ValueError(f"{address}: {_web_page_at(address) or 'is no Hugging Face hub: it names no version'}")
    file = _transfer(folder / f"download{Path(entry['filename']).suffix}", url=address)
    if re.fullmatch("[0-9a-f]{64}", promised.etag) and sha256(file) != promised.etag:
        clear(folder)
        raise ValueError(f"{address}: what came has another checksum than the hub says; call again")
    return file


def _transfer(target: Path, *, url: str | None, drive_id: str | None = None) -> Path:
    """Lets gdown transfer a file from an address, or else by its id on Drive, going on after a break."""
    import gdown
    from gdown.exceptions import DownloadError, FileURLRetrievalError
    from requests.exceptions import RequestException

    try:
        gdown.download(
            url=url,
            id=None if url else drive_id,
            output=str(target),
            resume=True,
            use_cookies=False,
            retries=RETRIES,
            timeout=TIMEOUT_SECONDS,
        )
    except FileURLRetrievalError as error:
        said = _reason(error).split("You may still be able")[0].removeprefix("Failed to retrieve file url: ")
        raise ValueError(f"Google Drive answers with a web page in place of the file (quota, login): {said}") from error
    except (DownloadError, RequestException) as error:
        page = _web_page_at(url) if url else None
        raise ValueError(f"{url or 'Google Drive'}: {page or _reason(error)}") from error
    return target


def _web_page_at(address: str) -> str | None:
    """Says so when an address that should give weights gives a web page."""
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer:
            kind, start = answer.headers.get_content_type(), answer.read(2**16)
    except urllib.error.HTTPError as error:
        kind, start = error.headers.get_content_type(), error.read(2**16)
    except (OSError, ValueError):
        return None
    if kind != "text/html":
        return None
    title = re.search(rb"<title[^>]*>(.*?)</title>", start, re.I | re.S)
    said = f" titled {title[1].decode('utf-8', 'replace').strip()!r}" if title else ""
    return f"answers with a web page{said} in place of the file: a quota, login or proxy page"


def _reason(error: BaseException) -> str:
    """Why a download failed, in a line: what the system said where there is no way to the server, else the library."""
    first = error
    while (before := first.__cause__ or first.__context__) is not None:
        first = before
    if isinstance(first, OSError) and first.errno is not None:
        return f"cannot be reached: {first.strerror or first}"
    return " ".join(str(error).split()) or type(error).__name__


def by_hand(entry: Mapping[str, Any], target: Path, name: str) -> str:
    """What a person does where this program cannot reach the source."""
    if entry["source"] == "huggingface":
        base = f"{HUB}/{entry['repo_id']}"
        return (
            f"By hand: get {base}/resolve/{entry['revision']}/{entry['filename']} elsewhere, bring it here and run "
            f"python models/convert.py {entry['filename']} {target}"
        )
    page = entry.get("url") or f"https://drive.google.com/file/d/{entry['id']}/view"
    return (
        f"By hand: open {page} in a browser, save the file as {target} and run python models/download.py {name}, "
        "which then checks it"
    )


def clear(folder: Path) -> None:
    """Removes what a download left besides its result."""
    shutil.rmtree(folder, ignore_errors=True)
