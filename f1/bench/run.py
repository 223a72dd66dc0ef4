"""A whole run: which sections, on what, with whom; each section is a function of `sections`."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from f1.bench.report import OURS, Report
from f1.bench.subject import Subject, SubjectFailed
from f1.bench.work import Costs
from f1.errors import InvalidRequest
from f1.models.checkpoint import Checkpoint

SECTIONS = ("decode", "prefill", "batch", "call", "ttft", "neighbour", "overhead", "memory")

# Peers: the module that must be there, and what to say of the weights they run.
PEERS: Mapping[str, tuple[str, str]] = {
    "llama.cpp": ("llama_cpp", "same file, same quantised weights"),
    "openvino": (
        "openvino_genai",
        "same file, re-quantised: the minimum of a 4-bit block is rounded to a whole step",
    ),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much work a measurement is made of."""

    rounds: int = 5
    seconds: float = 25.0  # after which a section begins no round more, once it has three
    prompt_tokens: int = 512
    new_tokens: int = 64
    batch_context: int = 256
    batch_sizes: tuple[int, ...] = (16, 4, 1)  # falling
    batch_steps: int = 24
    toolset_tokens: int = 2000
    memory_bytes: int = 2**29  # read for the bandwidth: far more than any cache

    @classmethod
    def quick(cls) -> Sizes:
        """Enough to see that everything runs; the figures are rough."""
        return cls(
            rounds=1,
            seconds=0.0,
            prompt_tokens=128,
            new_tokens=16,
            batch_context=32,
            batch_steps=4,
            toolset_tokens=400,
            memory_bytes=2**27,
        )


@dataclass(frozen=True, slots=True)
class Options:
    model: str
    threads: int
    sections: tuple[str, ...]
    peers: Mapping[str, Path | None]  # by name; the folder the peer is installed in, if not here
    sizes: Sizes


class Progress(Protocol):
    def __call__(self, section: str, done: int, total: int) -> None: ...


@dataclass(slots=True)
class Bench:
    """What the sections share."""

    options: Options
    checkpoint: Checkpoint
    path: Path  # of the weights
    costs: Costs
    progress: Progress
    report: Report = field(default_factory=Report)
    facts: dict[str, Any] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)

    @property
    def sizes(self) -> Sizes:
        return self.options.sizes

    def wants(self, *sections: str) -> bool:
        return any(section in self.options.sections for section in sections)

    def rounds(self, section: str, limit: int | None = None) -> Iterator[int]:
        """Numbers of rounds: as many as asked for, or three once the section's time is over."""
        total = min(limit or self.sizes.rounds, self.sizes.rounds)
        end = time.monotonic() + self.sizes.seconds
        for index in range(total):
            if index >= 3 and time.monotonic() > end:
                break
            self.progress(section, index, total)
            yield index
        self.progress(section, total, total)

    def subject(self, kind: str, **settings: int | str) -> Subject:
        """A new process; ours by name, a peer by the file."""
        if kind.startswith(OURS):
            return Subject(kind, self.options.model, settings=settings)
        return Subject(kind, str(self.path), folder=self.options.peers[kind])

    @contextmanager
    def subjects(
        self, warm_up: Mapping[str, object], *, among: Sequence[str]
    ) -> Iterator[dict[str, Subject]]:
        """The subjects of `among` that are here and answer the warm-up question, while it lasts."""
        with ExitStack() as stack:
            ready = {}
            for kind in among:
                if kind != OURS and (kind not in self.options.peers or kind in self._failed):
                    continue
                subject = stack.enter_context(self.subject(kind))
                try:
                    subject.ask(**warm_up)  # type: ignore[arg-type]
                except SubjectFailed as error:
                    if kind == OURS:
                        raise
                    self._failed.add(kind)
                    self.report.notes.append(error.message)
                else:
                    ready[kind] = subject
            yield ready


def find_peers(asked: Sequence[str]) -> dict[str, Path | None]:
    """What `--peer` means: `auto`, `none`, or NAME[=FOLDER] of each. Raises InvalidRequest."""
    if list(asked) == ["none"]:
        return {}
    found: dict[str, Path | None] = {}
    for entry in asked:
        if entry == "auto":
            found |= {name: None for name, (module, _) in PEERS.items() if _is_here(module)}
            continue
        name, _, folder = entry.partition("=")
        if name not in PEERS:
            raise InvalidRequest(f"no peer {name!r}: there are auto, none, {', '.join(PEERS)}")
        if folder and not Path(folder).is_dir():
            raise InvalidRequest(f"--peer {entry}: {folder} is not a folder")
        found[name] = Path(folder) if folder else None
    return found


def _is_here(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None


def default_threads() -> int:
    """One for each processor that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
