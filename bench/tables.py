"""The tables of bench/README.md from the files that `f1 bench --json` wrote.

    python bench/tables.py FILE …

A row for each figure: median (lowest to highest) of each subject, and how many times better ours
is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Key = tuple[str, int, str]  # figure, threads, unit


def figure(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def table(found: dict[str, Any]) -> list[str]:
    rows: dict[Key, dict[str, dict[str, Any]]] = {}
    for row in found["rows"]:
        rows.setdefault((row["what"], row["threads"], row["unit"]), {})[row["who"]] = row
    times = {(d["what"], d["of"], d["threads"]): d["value"] for d in found["derived"]}
    everyone = dict.fromkeys(row["who"] for row in found["rows"])
    others = [who for who in everyone if who not in ("f1", "machine")]
    lines = ["| figure | threads | f1 | " + " | ".join(others) + " |", "|---" * (3 + len(others))]
    lines[-1] += "|"
    for (what, threads, unit), by_who in rows.items():
        if "f1" not in by_who:
            continue
        cells = [spread(by_who["f1"])]
        for who in others:
            ratio = times.get((f"{what}, {unit}", who, threads))
            beside = f", **{ratio:.2f} x**" if ratio else ""
            cells.append(spread(by_who[who]) + beside if who in by_who else "")
        lines.append(f"| {what}, {unit} | {threads} | " + " | ".join(cells) + " |")
    return lines


def spread(row: dict[str, Any]) -> str:
    if len(row["values"]) == 1:
        return figure(row["median"])
    return f"{figure(row['median'])} ({figure(row['min'])} to {figure(row['max'])})"


def ceilings(found: dict[str, Any]) -> list[str]:
    rows = [row for row in found["rows"] if row["who"] == "machine"]
    lines = [
        f"- {row['what']}, threads {row['threads']}: {spread(row)} {row['unit']}" for row in rows
    ]
    shares = [entry for entry in found["derived"] if ": " in entry["what"]]
    for entry in shares:
        digits = 2 if entry["unit"] == "x" else 0
        value = f"{entry['value']:.{digits}f} {entry['unit']}"
        lines.append(f"- {entry['what']}, threads {entry['threads']}: {value} of {entry['of']}")
    return lines


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        found = json.loads(path.read_text("utf-8"))
        print(f"\n### {found['settings']['model']}\n")
        print(f"`{found['command']}`, commit {found['commit']}, {found['machine']}, load ", end="")
        print(f"{found['load']:.1f} before.\n")
        print("\n".join(table(found)), "\n", sep="")
        print("\n".join(ceilings(found)))


if __name__ == "__main__":
    main()
