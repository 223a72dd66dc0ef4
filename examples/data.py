"""A question about a SQLite database: look at its tables, query them, answer.

    python examples/data.py ["Which …?"] [--model NAME]

The model writes the SQL. The connection cannot write, whatever the model does, and a query that
takes too long is ended.
"""

from __future__ import annotations

import argparse
import sqlite3
import time
from typing import Any

from f1 import F1, tool

QUESTION = "Which product is in most orders? Look at the tables first."
_DATA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, product TEXT, euros REAL);
INSERT INTO customers VALUES (1, 'Ida Brandt', 'Kiel'), (2, 'Yusuf Kaya', 'Bonn'),
  (3, 'Mae Quinn', 'Cork');
INSERT INTO orders VALUES (1, 1, 'lamp', 39.0), (2, 3, 'desk', 240.0), (3, 3, 'chair', 85.5),
  (4, 2, 'lamp', 39.0), (5, 3, 'shelf', 61.0);
"""
_MAX_SECONDS = 2.0
_MAX_ROWS = 20


def open_database() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.executescript(_DATA)
    database.execute("PRAGMA query_only = ON")
    return database


DATABASE = open_database()


@tool(read_only=True)
def list_tables() -> list[str]:
    """The tables of the database, as the statements that made them."""
    return [sql for (sql,) in DATABASE.execute("SELECT sql FROM sqlite_master ORDER BY name")]


@tool(read_only=True, max_parallel=1)
def query(sql: str) -> list[dict[str, Any]]:
    """The rows that a SELECT statement finds in the database.

    Args:
        sql: One SELECT statement of SQLite, with joins where it needs more than one table.
    """
    until = time.monotonic() + _MAX_SECONDS
    DATABASE.set_progress_handler(lambda: time.monotonic() > until, 10_000)
    rows = DATABASE.execute(sql)
    names = [column[0] for column in rows.description or ()]
    return [dict(zip(names, row, strict=True)) for row in rows.fetchmany(_MAX_ROWS)]


TOOLS = (list_tables, query)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--model")
    options = parser.parse_args()
    with F1(options.model) as f1:
        run = f1.run(options.question, TOOLS, max_tokens=256)
    for result in run.results:
        print(f"{result.call.name} {result.call.arguments} -> {result.content}")
    print(run.text or "no answer")


if __name__ == "__main__":
    main()
