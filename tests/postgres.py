"""A PostgreSQL of the tests' own, from Debian's package: in a temporary folder, behind a socket."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg

_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin")
_NUMBERS = itertools.count()


def programs() -> Path | None:
    """The folder of the newest that is installed."""
    found = [path for place in _PLACES for path in Path("/").glob(place[1:])]
    found = [path for path in found if (path / "initdb").exists()]
    return max(found, key=lambda path: float(path.parent.name), default=None)


class Postgres:
    def __init__(self, folder: Path, bin_folder: Path, wrapper: Sequence[str]):
        self._folder, self._bin, self._wrapper = folder, bin_folder, wrapper

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._wrapper, self._bin / program, "-D", self._folder / "data", *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/", timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def make(self) -> None:
        self._run("initdb", "-N", "-A", "trust", "-U", "f1", "--locale=C", "-E", "UTF8")

    def start(self) -> None:
        options = f"-k {self._folder} -c listen_addresses='' -c fsync=off -c max_connections=50"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def url(self, schema: str = "public") -> str:
        options = quote(f"-csearch_path={schema}")
        return f"postgresql://f1@/postgres?host={quote(str(self._folder))}&options={options}"

    def connect(self, url: str | None = None) -> psycopg.Connection:
        return psycopg.connect(url or self.url(), autocommit=True)

    def new(self) -> str:
        """The address of an empty database, or what looks like one."""
        schema = f"s{next(_NUMBERS)}"
        with self.connect() as db:
            db.execute(f"CREATE SCHEMA {schema}".encode())
        return self.url(schema)


@contextmanager
def running(bin_folder: Path) -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="f1-pg"))
    wrapper: list[str] = []
    if os.geteuid() == 0:  # which initdb refuses
        user = next(u for u in pwd.getpwall() if u.pw_name in ("postgres", "nobody"))
        os.chown(folder, user.pw_uid, user.pw_gid)
        wrapper = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    server = Postgres(folder, bin_folder, wrapper)
    try:
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
