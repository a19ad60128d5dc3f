"""Real programs on a mounted file system, with kill -9 of its server in the middle.

After each: `check` finds nothing, the program's own check finds nothing, and what it was told is
durable is there. Programs that are missing are installed by `./run test`; where they could be, a
missing one is a failure and not a skip.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filemount import Files
from rawmount import abort_mounts, in_child, wait, wait_until

from daxmend.extent import Extent
from daxmend.fs import check
from daxmend.fuse import find_mount
from daxmend.host import zeroing
from daxmend.media.pool import read_owner
from daxmend.stack.device import open_device

pytestmark = [
    pytest.mark.timeout(300, method="signal"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the programs run as root and postgres"),
]

_POOL_SIZE = 512 << 20
_SECONDS_TO_KILL = (0.3, 1.2)  # after a program began: somewhere in its work


@pytest.fixture(params=["process", "machine"])
def durability(request: pytest.FixtureRequest) -> str:
    """What a fence promises; with `machine` commits wait for fsync or a second."""
    return str(request.param)


@pytest.fixture
def home(fuse: None, programs: Path, durability: str) -> Iterator[Files]:
    """A mounted file system, opened as a user would."""
    base = Path(tempfile.mkdtemp(prefix="daxmend-test-", dir="/tmp"))
    base.chmod(0o755)
    files = Files(base, "auto", programs)
    files.size = _POOL_SIZE
    files.create("--durability", durability)
    files.must_mount()
    try:
        yield files
    finally:
        abort_mounts(base)
        with contextlib.suppress(Exception):
            files.umount()
        shutil.rmtree(base, ignore_errors=True)


def check_pool(files: Files) -> None:
    """Unmount; an independent walk of tree and space finds nothing; mount again."""
    files.must_umount()
    wait_until(lambda: read_owner(files.pool) is None, "the pool is free")
    device = open_device(files.pool, writable=False)
    try:
        assert list(check(device)) == []
    finally:
        device.close()
    files.must_mount()


def run(*words: str | Path, cwd: Path | None = None, **options: object) -> str:
    """The output of a program that must succeed."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return str(done.stdout)


def kill_server_during(files: Files, work: Callable[[], None], ledger: Path) -> None:
    """Run `work` in a child, kill the server somewhere in it, clean up, check, mount again.

    Not before the work has promised something in the ledger, or what is promised proves nothing.
    """
    seed = time.time_ns() & 0xFFFFFFFF
    print("seed", seed)
    ledger.touch()
    promised = ledger.stat().st_size
    client = in_child(work)
    wait_until(lambda: ledger.stat().st_size > promised, "something is promised", seconds=60)
    time.sleep(random.Random(seed).uniform(*_SECONDS_TO_KILL))
    os.kill(files.server, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(client, signal.SIGKILL)
    wait(client)
    files.must_umount()
    wait_until(lambda: find_mount(files.mountpoint) is None, "the mount is gone")
    wait_until(lambda: read_owner(files.pool) is None, "the pool is free")
    mounted = files.mount()
    assert mounted.status == 0
    assert not mounted.err or "lacks the last commit" in mounted.err  # the kill cut it off
    check_pool(files)


def needs(*names: str) -> None:
    """Fail without a program that can be installed here; skip, loudly, without one that cannot."""
    for name in names:
        if shutil.which(name, path=f"{os.environ['PATH']}:{_postgres_bin()}") is None:
            if os.geteuid() == 0 and shutil.which("apt-get") is not None:
                pytest.fail(f"{name} is missing, and can be installed: ./run test does")
            pytest.skip(f"{name} is not installed and could not be")


# -- SQLite ----------------------------------------------------------------------------------


def _write_rows(path: Path, journal_mode: str, ledger: Path) -> None:
    """Transactions, each written to the ledger when it is committed."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"PRAGMA journal_mode={journal_mode}")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, data BLOB)")
    start = database.execute("SELECT coalesce(max(id), 0) FROM t").fetchone()[0]
    with open(ledger, "ab", buffering=0) as acknowledged:
        for number in range(start + 1, start + 100_000):
            database.execute("BEGIN")
            data = hashlib.sha256(b"%d" % number).digest() * (number % 300)
            database.execute("INSERT INTO t VALUES (?, ?)", (number, data))
            if number % 5 == 0:
                database.execute("DELETE FROM t WHERE id = ?", (number - 3,))
            database.execute("COMMIT")
            acknowledged.write(b"%d\n" % number)


def _check_rows(path: Path, ledger: Path) -> None:
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    last = int(ledger.read_text().split()[-1])
    rows = dict(database.execute("SELECT id, data FROM t"))
    for number in range(1, last + 1):
        is_deleted = number % 5 == 2 and number + 3 <= last
        if not is_deleted and number <= last - 3:
            assert rows[number] == hashlib.sha256(b"%d" % number).digest() * (number % 300)
    database.close()


@pytest.mark.parametrize("journal_mode", ["WAL", "DELETE"])
def test_sqlite_keeps_what_it_committed_through_kills_of_the_server_r18(
    home: Files, journal_mode: str
) -> None:
    path, ledger = home.path("database"), home.base / "ledger"
    for _ in range(3):
        kill_server_during(home, lambda: _write_rows(path, journal_mode, ledger), ledger)
        _check_rows(path, ledger)


def test_sqlite_says_which_page_is_bad_and_works_again_when_it_is_healed(home: Files) -> None:
    path = home.path("database")
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
    rows = ((number, os.urandom(3000)) for number in range(300))
    database.executemany("INSERT INTO t VALUES (?, ?)", rows)
    database.commit()
    database.close()
    good = path.read_bytes()
    bad = 100 * 4096
    home.damage(path, bad, 4096)
    database = sqlite3.connect(path)
    with pytest.raises(sqlite3.DatabaseError, match=r"malformed|I/O error"):  # SQLite's EIO
        database.execute("SELECT sum(length(data)) FROM t").fetchall()
    database.close()
    home.write_at(path, good[bad : bad + 4096], bad)
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    check_pool(home)


# -- git ---------------------------------------------------------------------------------------

_IDENTITY = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "core.fsync=all")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _commit_for_ever(repository: Path, ledger: Path) -> None:
    with open(ledger, "ab", buffering=0) as acknowledged:
        for number in range(100_000):
            (repository / f"file{number % 50}").write_bytes(os.urandom(2000))
            run("git", *_IDENTITY, "add", "-A", cwd=repository)
            run("git", *_IDENTITY, "commit", "-q", "-m", f"{number}", cwd=repository)
            head = run("git", "rev-parse", "HEAD", cwd=repository)
            _sync(repository / ".git/refs/heads")  # which git leaves to others
            acknowledged.write(head.encode())
            if number % 20 == 19:
                run("git", *_IDENTITY, "gc", "-q", cwd=repository)


def test_git_keeps_its_commits_through_kills_of_the_server(home: Files) -> None:
    needs("git")
    repository, ledger = home.path("repository"), home.base / "ledger"
    repository.mkdir()
    run("git", "init", "-q", cwd=repository)
    for _ in range(2):
        kill_server_during(home, lambda: _commit_for_ever(repository, ledger), ledger)
        for lock in [*repository.glob(".git/*.lock"), *repository.glob(".git/refs/heads/*.lock")]:
            lock.unlink()
        run("git", "fsck", "--full", cwd=repository)
        last = ledger.read_text().split()[-1]
        run("git", "merge-base", "--is-ancestor", last, "HEAD", cwd=repository)
        run("git", "reset", "-q", "--hard", cwd=repository)


def test_git_clones_packs_and_checks_a_repository(home: Files) -> None:
    needs("git")
    origin, clone = home.path("origin"), home.path("clone")
    origin.mkdir()
    run("git", "init", "-q", cwd=origin)
    for number in range(20):
        (origin / f"file{number}").write_bytes(os.urandom(5000))
        run("git", *_IDENTITY, "add", "-A", cwd=origin)
        run("git", *_IDENTITY, "commit", "-q", "-m", f"{number}", cwd=origin)
    run("git", "clone", "-q", "--no-local", origin, clone)
    run("git", "gc", "-q", "--aggressive", cwd=clone)
    run("git", "fsck", "--full", "--strict", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    check_pool(home)
    run("git", "fsck", "--full", "--strict", cwd=clone)


# -- many files --------------------------------------------------------------------------------


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _checksums(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[str(path.relative_to(root))] = digest
    return found


def test_tar_brings_the_standard_library_there_and_back(home: Files) -> None:
    needs("tar")
    parts = ("email", "json", "asyncio", "unittest", "xml", "encodings", "multiprocessing")
    source, archive = home.base / "source", home.path("archive.tar")
    for part in parts:
        shutil.copytree(_library() / part, source / part, symlinks=True)
    run("tar", "-cf", archive, "-C", source, ".")
    (home.path("out")).mkdir()
    run("tar", "-xf", archive, "-C", home.path("out"))
    wanted = _checksums(source)
    assert len(wanted) > 200
    assert _checksums(home.path("out")) == wanted
    check_pool(home)
    assert _checksums(home.path("out")) == wanted


def test_python_compiles_its_library_there(home: Files) -> None:
    ignored = shutil.ignore_patterns(
        "__pycache__", "test", "tests", "site-packages", "config-*", "*.so", "*.a"
    )
    shutil.copytree(_library(), home.path("lib"), ignore=ignored)
    run(sys.executable, "-m", "compileall", "-q", "-j", "2", home.path("lib"))
    sources = list(home.path("lib").rglob("*.py"))
    assert len(sources) > 500
    assert len(list(home.path("lib").rglob("*.pyc"))) == len(sources)
    check_pool(home)


def test_fio_verifies_what_it_wrote(home: Files) -> None:
    needs("fio")
    run(
        "fio", "--name=v", "--verify_state_save=0",
        "--directory", home.mountpoint, "--rw=randwrite", "--bs=512-64k",
        "--size=8m", "--numjobs=4", "--verify=crc32c", "--do_verify=1", "--fallocate=none",
        "--group_reporting", "--fsync=64", "--ioengine=psync",
    )  # fmt: skip
    check_pool(home)


# -- PostgreSQL --------------------------------------------------------------------------------


def _postgres_bin() -> Path:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return versions[-1] if versions else Path("/nonexistent")


class _Postgres:
    """A cluster in a directory, run by the user `postgres`, with its socket beside it."""

    def __init__(self, base: Path, data: Path) -> None:
        self._socket = base / "socket"
        self._data = data
        self._log = base / "postgres.log"
        self._pid = 0  # of its server, while the mount may be dead
        self._socket.mkdir()
        for path in (self._socket, data):
            shutil.chown(path, "postgres", "postgres")
            path.chmod(0o700)
        self._log.touch()
        shutil.chown(self._log, "postgres", "postgres")

    def run(self, program: str, *words: str) -> str:
        prefix = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
        return run(*prefix, _postgres_bin() / program, *words, cwd=Path("/"))

    def initdb(self) -> None:
        self.run("initdb", "-D", str(self._data), "-A", "trust", "--no-instructions")

    def start(self) -> None:
        options = (
            f"-k {self._socket} -c listen_addresses= -c shared_buffers=16MB "
            "-c dynamic_shared_memory_type=mmap"  # a kill leaves nothing in /dev/shm
        )
        try:
            self.run(
                "pg_ctl", "start", "-w", "-D", str(self._data), "-o", options, "-l", str(self._log)
            )
        except AssertionError:
            print(self._log.read_text()[-3000:])
            raise
        self._pid = int((self._data / "postmaster.pid").read_text().split()[0])

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "stop", "-w", "-D", str(self._data), "-m", mode)
        self._pid = 0

    def kill(self) -> None:
        """Every process of this cluster, and of no other; nothing if it does not run."""
        if not self._pid:
            return
        for pid in [self._pid, *self._pids_below(self._pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _pids_below(self, pid: int) -> list[int]:
        """The backends: the server does not start others than its own children."""
        try:
            return [
                int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            ]
        except FileNotFoundError:
            return []

    def forget_the_dead(self) -> None:
        """A server whose process nobody has waited for yet counts as running."""
        for left in [self._data / "postmaster.pid", *self._socket.iterdir()]:
            left.unlink(missing_ok=True)

    def psql(self, text: str) -> str:
        return self.run(
            "psql",
            "-h",
            str(self._socket),
            "-d",
            "postgres",
            "-v",
            "ON_ERROR_STOP=1",
            "-qAtc",
            text,
        )

    def pgbench(self, *words: str) -> str:
        return self.run("pgbench", "-h", str(self._socket), *words, "postgres")


@pytest.fixture
def postgres(home: Files) -> Iterator[_Postgres]:
    """A running cluster on the mount."""
    needs("initdb", "pgbench")
    data = home.path("cluster")
    data.mkdir()
    cluster = _Postgres(home.base, data)
    cluster.initdb()
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.kill()


def _check_cluster(cluster: _Postgres) -> None:
    cluster.psql("CREATE EXTENSION IF NOT EXISTS amcheck")
    cluster.psql(
        "SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam "
        "WHERE a.amname = 'btree' AND c.relpersistence = 'p' AND c.relkind = 'i'"
    )
    corrupt = cluster.psql(
        "SELECT c.relname, v.* FROM pg_class c, verify_heapam(c.oid) v "
        "WHERE c.relkind = 'r' AND c.relpersistence = 'p'"
    )
    assert corrupt == ""


def _insert_for_ever(cluster: _Postgres, ledger: Path) -> None:
    with open(ledger, "ab", buffering=0) as acknowledged:
        for number in range(100_000):
            cluster.psql(f"INSERT INTO promised VALUES ({number})")
            acknowledged.write(b"%d\n" % number)


def test_postgresql_runs_a_benchmark_and_its_indexes_are_whole(
    home: Files, postgres: _Postgres
) -> None:
    postgres.pgbench("-i", "-q", "-s", "2")
    postgres.pgbench("-n", "-c", "4", "-j", "2", "-T", "4")
    _check_cluster(postgres)
    postgres.stop()
    check_pool(home)
    postgres.start()
    assert int(postgres.psql("SELECT count(*) FROM pgbench_accounts")) == 200_000
    _check_cluster(postgres)
    postgres.stop()


def test_postgresql_keeps_what_it_committed_through_a_kill_of_the_server_r18(
    home: Files, postgres: _Postgres
) -> None:
    ledger = home.base / "ledger"
    postgres.pgbench("-i", "-q", "-s", "1")
    postgres.psql("CREATE TABLE promised (number int PRIMARY KEY)")

    def work() -> None:
        load = in_child(lambda: postgres.pgbench("-n", "-c", "2", "-T", "60"))
        try:
            _insert_for_ever(postgres, ledger)
        finally:
            os.kill(load, signal.SIGKILL)

    client = in_child(work)
    wait_until(lambda: ledger.exists() and ledger.stat().st_size > 20, "some are committed")
    os.kill(home.server, signal.SIGKILL)
    os.kill(client, signal.SIGKILL)
    wait(client)
    postgres.kill()
    home.must_umount()
    wait_until(lambda: read_owner(home.pool) is None, "the pool is free")
    assert home.mount().status == 0
    check_pool(home)
    postgres.forget_the_dead()
    postgres.start()
    promised = {int(number) for number in ledger.read_text().split()}
    kept = {int(number) for number in postgres.psql("SELECT number FROM promised").split()}
    assert promised <= kept
    _check_cluster(postgres)
    postgres.stop()


# -- kills during the others -------------------------------------------------------------------


def _promise(directory: Path, ledger: Path) -> None:
    """All below the directory becomes durable, and then the ledger says what it is."""
    found = _checksums(directory)
    for path in [directory, *directory.rglob("*")]:
        _sync(path)
    _sync(directory.parent)
    with open(ledger, "a") as acknowledged:
        acknowledged.write(json.dumps([directory.name, found]) + "\n")


def _check_promised(home: Path, ledger: Path) -> None:
    """The last directory that was promised is there; older ones may have been removed."""
    name, promised = json.loads(ledger.read_text().splitlines()[-1])
    assert promised
    assert _checksums(home / name) == promised


def _for_ever(home: Path, ledger: Path, work: Callable[[Path], None], *, kept: int = 2) -> None:
    """Each round in a directory of its own, which is promised; the last ones stay."""
    done: list[Path] = []
    for number in range(100_000):
        target = home / f"{os.getpid()}-{number}"
        target.mkdir()
        work(target)
        _promise(target, ledger)
        done.append(target)
        if len(done) > kept:
            shutil.rmtree(done.pop(0))


def _tar(target: Path) -> None:
    run("tar", "-cf", target / "archive.tar", "-C", _library(), "json", "xml")
    run("tar", "-xf", target / "archive.tar", "-C", target)


def _compile(target: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_library() / "json", target / "json", ignore=ignored)
    run(sys.executable, "-m", "compileall", "-q", "-f", target)


def _fio(target: Path) -> None:
    run(
        "fio", "--name=v", "--verify_state_save=0", "--directory", target, "--rw=randwrite",
        "--bs=512-64k", "--size=1m", "--numjobs=4", "--verify=crc32c", "--do_verify=1",
        "--fallocate=none", "--fsync=16", "--ioengine=psync",
    )  # fmt: skip


def _fsx(target: Path) -> None:
    """Random operations on one file, as fsx does, against what it should hold."""
    seed = time.time_ns()
    rng = random.Random(seed)
    model = bytearray()
    fd = os.open(target / "fsx", os.O_RDWR | os.O_CREAT)
    for _ in range(300):
        offset, length = rng.randrange(200_000), rng.randrange(1, 40_000)
        match rng.randrange(6):
            case 0 | 1 | 2:
                data = rng.randbytes(length)
                model += bytes(max(offset - len(model), 0))
                model[offset : offset + length] = data
                assert os.pwrite(fd, data, offset) == length
            case 3:
                del model[offset:]
                model += bytes(offset - len(model))
                os.ftruncate(fd, offset)
            case 4:
                end = min(offset + length, len(model))
                model[offset:end] = bytes(max(end - offset, 0))
                zeroing.punch_hole(fd, Extent(offset, length))
            case 5:
                assert os.pread(fd, length, offset) == model[offset : offset + length], seed
    assert os.pread(fd, 1 << 20, 0) == model, seed
    os.close(fd)


@pytest.mark.parametrize("work", [_tar, _compile, _fio, _fsx])
def test_what_was_fsynced_is_there_after_a_kill_in_the_middle_of_a_program_r18(
    home: Files, work: Callable[[Path], None]
) -> None:
    needs("tar", "fio")
    ledger = home.base / "ledger"
    for _ in range(2):
        kill_server_during(home, lambda: _for_ever(home.mountpoint, ledger, work), ledger)
        _check_promised(home.mountpoint, ledger)
        for left in home.mountpoint.iterdir():
            shutil.rmtree(left)
    check_pool(home)
