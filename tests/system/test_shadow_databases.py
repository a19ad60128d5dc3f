"""Real databases on a shadow mount: a page of a table goes bad, they say so, and live on healed."""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from rawmount import cli
from shadowmount import Shadowed
from test_programs import _check_cluster, _Postgres, needs

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="the programs run as root and postgres"),
    pytest.mark.parametrize(("user", "open_mode"), [("root", "auto")], indirect=["user"]),
]
BLOCK = 8192


@pytest.fixture
def open_mode() -> str:
    return "auto"


@pytest.fixture
def armed(unmounted_shadow: Shadowed) -> Shadowed:
    unmounted_shadow.must_mount("--arm", "**")
    return unmounted_shadow


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
def test_sqlite_says_that_a_page_is_bad_and_is_whole_when_it_is_healed(
    armed: Shadowed, journal_mode: str
) -> None:
    path = armed.path("app.db")
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"PRAGMA journal_mode={journal_mode}")
    database.execute("CREATE TABLE t (x)")
    database.executemany("INSERT INTO t VALUES (?)", [(f"row {n}" * 50,) for n in range(2000)])
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    armed.inject("app.db", 50 * 4096, 4096)  # open, and mapped in WAL mode
    other = sqlite3.connect(path)
    with pytest.raises(sqlite3.DatabaseError, match=r"malformed|I/O error"):
        other.execute("SELECT sum(length(x)) FROM t").fetchall()
    other.close()
    repaired = cli(
        "repair", path, "--from", armed.below("app.db"), "--apply", "--journal", armed.base
    )
    assert repaired.status == 0, repaired
    assert armed.faults == ""
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert database.execute("SELECT count(*) FROM t").fetchall() == [(2000,)]
    database.close()


@pytest.fixture
def postgres(armed: Shadowed) -> Iterator[_Postgres]:
    """A running cluster on the shadow mount."""
    needs("initdb", "pgbench")
    data = armed.path("cluster")
    data.mkdir()
    cluster = _Postgres(armed.base, data)
    try:
        cluster.initdb()
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


def test_postgresql_names_the_bad_block_and_is_whole_when_it_is_healed(
    armed: Shadowed, postgres: _Postgres
) -> None:
    postgres.psql(
        "CREATE TABLE t AS SELECT n, repeat(n::text, 50) x FROM generate_series(1, 9999) n"
    )
    postgres.psql("CREATE INDEX ON t (n)")
    expected = postgres.psql("SELECT sum(length(x)) FROM t")
    relation = postgres.psql("SELECT pg_relation_filepath('t')").strip()
    postgres.stop()  # its buffers are empty then, and its files complete
    name = f"cluster/{relation}"
    copy = armed.base / "copy"
    copy.write_bytes(armed.below(name).read_bytes())
    postgres.start()
    armed.inject(name, 3 * BLOCK, BLOCK)
    with pytest.raises(AssertionError) as caught:
        postgres.psql("SELECT sum(length(x)) FROM t")
    said = rf'could not read block(s)? 3(\.\.\d+)? in file "{re.escape(relation)}"'
    assert re.search(rf"{said}: Input/output error", str(caught.value)), caught.value
    assert postgres.psql("SELECT count(*) FROM t WHERE n = 9999") == "1\n"  # the rest is there
    located = cli("locate", armed.mountpoint)
    assert f"/{name}" in located.out
    repaired = cli("repair", armed.path(name), "--from", copy, "--apply", "--journal", armed.base)
    assert repaired.status == 0, repaired
    assert postgres.psql("SELECT sum(length(x)) FROM t") == expected
    _check_cluster(postgres)
    postgres.stop()
    assert armed.faults == ""


def test_postgresql_runs_a_benchmark_on_a_shadow(
    unmounted_shadow: Shadowed, tmp_path: Path
) -> None:
    """In passthrough."""
    needs("initdb", "pgbench")
    shadow = unmounted_shadow
    shadow.must_mount()
    data = shadow.path("cluster")
    data.mkdir()
    cluster = _Postgres(shadow.base, data)
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.kill)
        cluster.initdb()
        cluster.start()
        cluster.pgbench("-i", "-q", "-s", "1")
        cluster.pgbench("-n", "-c", "2", "-j", "1", "-t", "200")
        _check_cluster(cluster)
        cluster.stop()
