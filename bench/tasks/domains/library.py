"""A town library's SQLite database: the tools are its schema, queries, and statements."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from task import Task, World, tool

_SCHEMA = """
CREATE TABLE members (id INTEGER PRIMARY KEY, name TEXT, joined INTEGER);
CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT, author TEXT, year INTEGER);
CREATE TABLE loans (member_id INTEGER, book_id INTEGER, due TEXT);
INSERT INTO members VALUES (1, 'Ida Brandt', 2019), (2, 'Yusuf Kaya', 2021), (3, 'Mae Quinn', 2024);
INSERT INTO books VALUES (1, 'Salt Roads', 'T. Osei', 1987), (2, 'The Long Ice', 'L. Hagen', 2003),
  (3, 'Nine Gardens', 'P. Moreau', 2015), (4, 'Ice and Iron', 'L. Hagen', 2011),
  (5, 'A Quiet Engine', 'R. Sato', 2020);
INSERT INTO loans VALUES (1, 2, '2026-03-14'), (1, 5, '2026-03-20'), (3, 1, '2026-04-02');
"""
_TABLES = ("members", "books", "loans")


class Library(World):
    def __init__(self) -> None:
        super().__init__()
        self.db = sqlite3.connect(":memory:", check_same_thread=False)
        self.db.executescript(_SCHEMA)

    def state(self) -> object:
        return {name: sorted(self.db.execute(f"SELECT * FROM {name}")) for name in _TABLES}

    @tool(read_only=True)
    def list_tables(self) -> list[str]:
        """The tables of the library's database with their columns."""
        with closing(self.db.execute("SELECT sql FROM sqlite_master")) as rows:
            return [sql for (sql,) in rows]

    @tool(read_only=True)
    def query(self, sql: str) -> list[dict[str, Any]]:
        """Rows of the database.

        Args:
            sql: One SELECT statement of SQLite.
        """
        if not sql.lstrip().lower().startswith("select"):
            raise ValueError("only SELECT is allowed here; run_statement changes data")
        with closing(self.db.execute(sql)) as rows:
            names = [column[0] for column in rows.description]
            return [dict(zip(names, row, strict=True)) for row in rows.fetchmany(50)]

    @tool(destructive=True)
    def run_statement(self, sql: str) -> dict[str, int]:
        """Change the database.

        Args:
            sql: One INSERT, UPDATE or DELETE statement of SQLite.
        """
        with self.db:
            return {"rows_changed": self.db.execute(sql).rowcount}


_TABLE_STEP = ("list_tables", dict[str, Any]())


def _query(sql: str) -> tuple[str, dict[str, str]]:
    return "query", {"sql": sql}


TASKS = (
    Task(
        "parallel",
        "In the tables members and books, how many rows are there in each?",
        (_query("SELECT count(*) FROM members"), _query("SELECT count(*) FROM books")),
        (3, 5),
    ),
    Task(
        "parallel",
        "The table books has the columns title, author and year. In which year did 'Salt Roads' "
        "come out, and who wrote 'Nine Gardens'?",
        (
            _query("SELECT year FROM books WHERE title = 'Salt Roads'"),
            _query("SELECT author FROM books WHERE title = 'Nine Gardens'"),
        ),
        (1987, "Moreau"),
    ),
    Task(
        "sequential",
        "Look at the tables first. Which books by L. Hagen does the library have?",
        (_TABLE_STEP, _query("SELECT title FROM books WHERE author = 'L. Hagen'")),
        ("The Long Ice", "Ice and Iron"),
    ),
    Task(
        "sequential",
        "Check what tables there are, then tell me when 'A Quiet Engine' is due back.",
        (
            _TABLE_STEP,
            _query("SELECT due FROM loans JOIN books ON id = book_id WHERE title LIKE '%Engine'"),
        ),
        (("2026-03-20", "20 March", "March 20", "20th"),),
    ),
    Task(
        "mixed",
        "Table members has id and name, table books has id and title, table loans has member_id, "
        "book_id and due. Find the ids of Yusuf Kaya and of 'Nine Gardens', and lend him the book "
        "until 2026-05-01.",
        (
            _query("SELECT id FROM members WHERE name = 'Yusuf Kaya'"),
            _query("SELECT id FROM books WHERE title = 'Nine Gardens'"),
            ("run_statement", {"sql": "INSERT INTO loans VALUES (2, 3, '2026-05-01')"}),
        ),
    ),
    Task(
        "replan",
        "How many customers are in the table customers?",
        (
            _query("SELECT count(*) FROM customers"),
            _TABLE_STEP,
            _query("SELECT count(*) FROM members"),
        ),
        (3,),
    ),
    Task("missing", "Please delete that member.", says="Which member do you mean?"),
    Task(
        "irrelevant",
        "What does the abbreviation SQL stand for?",
        facts=("Structured Query Language",),
        says="SQL stands for Structured Query Language.",
    ),
)
