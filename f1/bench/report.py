"""What was measured and what follows from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

Unit = Literal["tok/s", "tok/CPU s", "GB/s", "GMAC/s", "ms", "CPU ms", "ms/tok", "µs", "MB", "tok"]
_LESS_IS_BETTER = {"ms", "CPU ms", "ms/tok", "µs", "MB"}

OURS = "f1"
PLAIN = "f1 plain"  # every switch off that makes a call cheaper than its tokens
MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one subject, once for each round."""

    what: str
    who: str
    threads: int
    unit: Unit
    values: list[float]

    @property
    def median(self) -> float:
        return median(self.values)

    def as_dict(self) -> dict[str, Any]:
        spread = {"median": self.median, "min": min(self.values), "max": max(self.values)}
        return asdict(self) | spread


@dataclass(frozen=True, slots=True)
class Derived:
    """A quotient of medians: how many times the other ("x"), or which part of it ("%")."""

    what: str
    of: str
    threads: int
    value: float
    unit: Literal["x", "%"]


@dataclass(slots=True)
class Report:
    rows: list[Row] = field(default_factory=list)
    derived: list[Derived] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, who: str, threads: int, unit: Unit, value: float) -> None:
        """One more round's value of that row."""
        row = self.find(what, who, threads, unit)
        if row is None:
            row = Row(what, who, threads, unit, [])
            self.rows.append(row)
        row.values.append(value)

    def find(self, what: str, who: str, threads: int, unit: Unit) -> Row | None:
        key = (what, who, threads, unit)
        same = (row for row in self.rows if (row.what, row.who, row.threads, row.unit) == key)
        return next(same, None)

    def compare(self) -> None:
        """Ours beside the others', row by row: above 1 ours is better."""
        for other in self.rows:
            ours = self.find(other.what, OURS, other.threads, other.unit)
            if ours is None or ours is other or other.unit == "tok":
                continue
            times = ours.median / other.median
            if ours.unit in _LESS_IS_BETTER:
                times = 1 / times
            what = f"{ours.what}, {ours.unit}"
            self.derived.append(Derived(what, other.who, ours.threads, times, "x"))

    def quotient(
        self, what: str, of: str, part: Row | None, whole: Row | None, percent: float | None = None
    ) -> None:
        """part / whole, or, in percent, so many times it; nothing where either is not there."""
        if part is not None and whole is not None:
            value = part.median / whole.median * (1 if percent is None else percent)
            unit: Literal["x", "%"] = "x" if percent is None else "%"
            self.derived.append(Derived(what, of, part.threads, value, unit))

    def beside(self, row: Row) -> Derived | None:
        """Ours over that other's row."""
        key = (f"{row.what}, {row.unit}", row.who, row.threads)
        return next((d for d in self.derived if (d.what, d.of, d.threads) == key), None)

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": [row.as_dict() for row in self.rows],
            "derived": [asdict(entry) for entry in self.derived],
            "notes": self.notes,
        }
