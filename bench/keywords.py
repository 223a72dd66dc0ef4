"""What becomes of each keyword of JSON Schema: enforced in the grammar, by validation, or refused.

    pip install '.[test]'
    python bench/keywords.py [--json FILE]

Every instance of the official JSON-Schema-Test-Suite (2020-12) goes through the grammar that F1
compiles for its schema, and through validation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from suite import outcomes

COLUMNS = {
    "accepted": "valid, allowed",
    "spelling": "valid, spelled otherwise",
    "lost": "valid, refused",
    "grammar": "invalid, stopped by the grammar",
    "validation": "by validation",
    "leak": "by nothing",
    "refused": "schema refused",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    spellings: Counter[str] = Counter()
    for outcome in outcomes():
        counts[outcome.group.keyword][outcome.verdict] += 1
        spellings[outcome.spelling] += bool(outcome.spelling)
    table = Table("keyword", *COLUMNS.values())
    for keyword, found in sorted(counts.items()):
        table.add_row(keyword, *(str(found[verdict] or "") for verdict in COLUMNS))
    total = sum(counts.values(), Counter())
    table.add_section()
    table.add_row("all", *(str(total[verdict]) for verdict in COLUMNS))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print("spelled otherwise:", dict(+spellings))
    if arguments.json:
        figures = {keyword: dict(found) for keyword, found in counts.items()}
        arguments.json.write_text(json.dumps({"keywords": figures, "spellings": dict(+spellings)}))


if __name__ == "__main__":
    main()
