"""File systems and raw devices on tables, mounted through the command line (R36, R37, R40, R42)."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filemount import Files
from rawmount import PAGE, SECTOR, User, abort_mounts, call, cli, take_away, wait_until

DIAGONAL = True
CHUNK = 4 * PAGE
MEMBER_SIZE = 8 << 20
STRIPE = ("a.pool", "b.pool", "r.pool")


class Stack(Files):
    """A file system striped over two pools and a RAM device behind faults.

    `a` heals, `b` has a medium that refuses to, and RAM has no error management of its own.
    """

    def __init__(self, base: Path, open_mode: str, programs: Path) -> None:
        super().__init__(base, open_mode, programs)
        self.size = 3 * MEMBER_SIZE

    def create(self, *options: str) -> None:
        self.must("create", self.base / "a.pool", "--raw", "--size", MEMBER_SIZE)
        refusing = ("--medium", "refuses")
        self.must("create", self.base / "b.pool", "--raw", "--size", MEMBER_SIZE, *refusing)
        sectors = MEMBER_SIZE // SECTOR
        self.table("r", f"0 {sectors} faulty - ram:{MEMBER_SIZE} 0\n")
        self.must("create", self.base / "r.pool", "--raw", "--table", self.base / "r.table")
        words = " ".join(f"{name} 0" for name in STRIPE)
        line = f"0 {3 * sectors} striped 3 {CHUNK // SECTOR} {words}"
        self.table("t", f"# two pools and RAM\n{line}\n")
        self.must("create", self.pool, "--table", self.base / "t.table")
        self.mountpoint.mkdir(exist_ok=True)

    def must_mount(self, *options: str) -> None:
        ran = self.mount(*options)
        assert ran.status == 0, ran
        assert "begin empty" in ran.err or not ran.err, ran

    def table(self, name: str, text: str) -> None:
        (self.base / f"{name}.table").write_text(text)

    @staticmethod
    def must(*arguments: object) -> str:
        ran = cli(*arguments)
        assert ran.status == 0, ran
        return ran.out

    @staticmethod
    def must_end(status: int, *arguments: object) -> str:
        ran = cli(*arguments)
        assert ran.status == status, ran
        return ran.out

    def chunks(self, path: Path, offset: int, length: int) -> dict[str, list[int]]:
        """Offsets in the file of whole chunks, by the member that holds them."""
        found: dict[str, list[int]] = {name: [] for name in STRIPE}
        for at in range(offset, offset + length, PAGE):
            place = self.place(path, at)
            if place % CHUNK == 0:
                found[STRIPE[place // CHUNK % 3]].append(at)
        return found


@pytest.fixture
def stack(user: User, open_mode: str, base: Path, programs: Path) -> Iterator[Stack]:
    """Mounted."""
    made = Stack(base, open_mode, programs)
    try:
        call(made.create, user, 20, lambda: None)
        call(made.must_mount, user, 20, lambda: abort_mounts(base))
        yield made
    finally:
        take_away(made, user)


def test_damage_in_all_members_heals_where_it_can_and_is_named_where_it_cannot(
    user: User, stack: Stack
) -> None:
    """R37, R42, R45: the story of issue 6."""
    path = stack.make("f", pages=64)
    os.sync()
    chunks = stack.chunks(path, 0, 60 * PAGE)
    before = path.read_bytes()
    places = stack.placed(path)
    hit = {name: found[1] for name, found in chunks.items()}
    for offset in hit.values():
        stack.damage(path, offset)
    bad = json.loads(stack.must_end(4, "locate", "--json", path))["ranges"]
    assert sorted(r["offset"] for r in bad) == sorted(hit.values())
    for offset in hit.values():
        with pytest.raises(OSError) as caught:
            stack.read_at(path, PAGE, offset)
        assert caught.value.errno == errno.EIO
    new = b"n" * PAGE
    for name in ("a.pool", "r.pool"):
        assert stack.write_at(path, new, hit[name]) == PAGE
    with pytest.raises(OSError) as caught:
        stack.write_at(path, new, hit["b.pool"])
    assert caught.value.errno == errno.EIO
    bad = json.loads(stack.must_end(4, "locate", "--json", path))["ranges"]
    assert [(r["offset"], r["length"]) for r in bad] == [(hit["b.pool"], PAGE)]
    assert stack.placed(path) == places, "R14: healed in place"
    for name in ("a.pool", "r.pool"):
        assert stack.read_at(path, PAGE, hit[name]) == new
    for at in range(0, 60 * PAGE, PAGE):
        if at not in hit.values():
            assert stack.read_at(path, PAGE, at) == before[at : at + PAGE]


def test_a_write_over_a_member_that_cannot_heal_counts_what_lies_before(
    user: User, stack: Stack
) -> None:
    """R17, R37: never all or nothing."""
    path = stack.make("f", pages=64)
    os.sync()
    first = stack.chunks(path, 0, 40 * PAGE)["a.pool"][0]
    for chunk in range(3):
        stack.damage(path, first + chunk * CHUNK, CHUNK)
    data = os.urandom(3 * CHUNK)
    assert stack.write_at(path, data, first) == CHUNK
    assert stack.write_at(path, data[2 * CHUNK :], first + 2 * CHUNK) == CHUNK
    assert stack.read_at(path, CHUNK, first) == data[:CHUNK]
    assert stack.read_at(path, CHUNK, first + 2 * CHUNK) == data[2 * CHUNK :]
    with pytest.raises(OSError):
        stack.read_at(path, PAGE, first + CHUNK)


def test_notices_from_two_members_name_the_ranges_of_both_files(user: User, stack: Stack) -> None:
    """R42: poison in two members of a stripe."""
    one, two = stack.make("one", pages=32), stack.make("two", pages=32)
    os.sync()
    a = stack.chunks(one, 0, 30 * PAGE)["a.pool"][0]
    b = stack.chunks(two, 0, 30 * PAGE)["b.pool"][0]
    stack.damage(one, a, PAGE)
    stack.damage(two, b, SECTOR)
    found = json.loads(stack.must_end(4, "locate", "--json", stack.mountpoint))["ranges"]
    owned = {r.get("file") or r.get("path"): (r["file_offset"], r["length"]) for r in found}
    assert owned["/one"] == (a, PAGE)
    assert owned["/two"] == (b, SECTOR)


def test_status_shows_the_table_and_each_member(user: User, stack: Stack) -> None:
    said = json.loads(stack.must("status", "--json", stack.mountpoint))
    assert [line.split()[2:5] for line in said["table"]] == [["striped", "3", str(CHUNK // SECTOR)]]
    assert [Path(m["name"]).name for m in said["members"]] == list(STRIPE)
    assert [m["recovers"] for m in said["members"]] == ["yes", "no", "yes"]
    text = stack.must("status", stack.mountpoint)
    assert "striped 3" in text
    assert "b.pool, size 8 MiB" in text


def test_the_members_of_a_mount_belong_to_it(user: User, stack: Stack) -> None:
    ran = cli("list", stack.base / "a.pool")
    assert ran.status == 8
    assert "in use by process" in ran.complaint
    stack.must_umount()
    stack.must("list", stack.base / "a.pool")


def test_a_mapping_of_the_file_faults_and_heals(user: User, stack: Stack) -> None:
    """R24, R27: through a table as well."""
    path = stack.make("f", pages=64)
    os.sync()
    hit = stack.chunks(path, 0, 60 * PAGE)["r.pool"][0]
    with stack.mapped_file(path) as mapping:
        assert isinstance(mapping.load(hit), bytes)
        stack.damage(path, hit)
        assert isinstance(mapping.load(hit), tuple), "SIGBUS"
        assert stack.write_at(path, b"n" * PAGE, hit) == PAGE
        assert mapping.load(hit) == b"n"


def test_a_raw_mount_of_a_table_is_a_device_like_any_other(user: User, stack: Stack) -> None:
    """R33, through linear lines over half of one member and a window of a file (R40)."""
    stack.must_umount()
    (stack.base / "w").write_bytes(bytes(1 << 20))
    stack.table("x", "0 2048 linear a.pool 2048\n2048 2048 linear window:w 0\n")
    pool, directory = stack.base / "x.pool", stack.base / "x"
    directory.mkdir()
    stack.must("create", pool, "--raw", "--table", stack.base / "x.table")
    ran = cli("mount", pool, directory)
    assert ran.status == 16
    assert "--raw" in ran.complaint
    stack.must("mount", "--raw", pool, directory)
    try:
        device = directory / "device"
        fd = os.open(device, os.O_RDWR)
        assert os.pwrite(fd, b"w" * PAGE, (1 << 20) - PAGE // 2) == PAGE
        stack.must("inject", directory, "--offset", "0", "--length", "512")
        with pytest.raises(OSError):
            os.pread(fd, SECTOR, 0)
        ran = cli("inject", directory, "--offset", 1 << 20, "--length", "512")
        assert ran.status == 8
        assert os.pwrite(fd, b"s" * SECTOR, 0) == SECTOR
        assert os.pread(fd, SECTOR, 0) == b"s" * SECTOR
        os.close(fd)
        stack.must("scrub", directory)
    finally:
        stack.must("umount", directory)
    assert (stack.base / "w").read_bytes()[: PAGE // 2] == b"w" * (PAGE // 2)
    assert cli("list", pool).status == 0


def test_a_file_system_over_pools_alone_is_there_after_a_remount(user: User, stack: Stack) -> None:
    stack.must_umount()
    stack.table("x", "0 8192 striped 2 8 a.pool 0 a2.pool 0\n")
    stack.must("create", stack.base / "a2.pool", "--raw", "--size", "8M")
    pool = stack.base / "x.pool"
    stack.must("create", pool, "--table", stack.base / "x.table")
    stack.pool = pool
    stack.must_mount()
    path = stack.make("f", pages=64)
    before = path.read_bytes()
    stack.damage(path, 8 * PAGE, PAGE)
    stack.remount()
    with pytest.raises(OSError):
        stack.read_at(path, PAGE, 8 * PAGE)
    assert stack.write_at(path, before[8 * PAGE : 9 * PAGE], 8 * PAGE) == PAGE
    assert path.read_bytes() == before
    stack.must_umount()
    assert cli("check", pool).status == 0


def test_bad_free_space_of_members_is_cleared_where_it_can_be(user: User, stack: Stack) -> None:
    """R31: what cannot be cleared stays in quarantine."""
    start = stack.size // 2 // (3 * CHUNK) * 3 * CHUNK
    for chunk in range(3):
        stack.write_control("badblocks", f"{(start + chunk * CHUNK) // SECTOR} 8\n")
    left = f"{(start + CHUNK) // SECTOR} 8\n"
    wait_until(lambda: stack.badblocks == left, "the janitor clears a and r, and leaves b")


def test_messages_reach_a_target_mounted_or_not(user: User, stack: Stack) -> None:
    """Marks of log-writes and the flush of a writecache, by `message`."""
    stack.must_umount()
    for name, size in (("log", "4M"), ("cache", "1M"), ("slow", "1M")):
        stack.must("create", stack.base / f"{name}.pool", "--raw", "--size", size)
    lines = ("0 2048 log-writes a.pool log.pool", "2048 2048 writecache cache.pool slow.pool 8")
    stack.table("x", "\n".join(lines))
    pool, directory = stack.base / "x.pool", stack.base / "x"
    directory.mkdir()
    stack.must("create", pool, "--raw", "--table", stack.base / "x.table")
    assert stack.must("message", pool, "0", "mark", "unmounted") == ""
    ran = cli("message", pool, "0", "mark")
    assert (ran.status, ran.complaint) == (16, "daxmend: log-writes takes one message: mark NAME")
    stack.must("mount", "--raw", pool, directory)
    try:
        with open(directory / "device", "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"w" * PAGE, 2048 * SECTOR)
        stack.must("message", directory, "0", "mark", "mounted")
        said = json.loads(stack.must("status", "--json", directory))["table"]
        assert "dirty 1 " in said[1]
        assert stack.must("message", directory, "2048", "losses") == ""
        stack.must("message", directory, "2048", "flush")
        said = json.loads(stack.must("status", "--json", directory))["table"]
        assert "dirty 0 " in said[1]
        for words, status, reason in (
            (("0", "mark"), 16, "log-writes takes one message: mark NAME"),
            (("2048", "flash"), 16, "writecache takes the messages flush, losses and clear_stats"),
            (("4096", "mark", "x"), 16, "reaches beyond its end"),
            (("0", "mark", "ä"), 16, "a message to a mount is ASCII"),
        ):
            ran = cli("message", directory, *words)
            assert ran.status == status
            assert reason in ran.complaint
    finally:
        stack.must("umount", directory)
    log = (stack.base / "log.pool").read_bytes()
    assert all(name in log for name in (b"unmounted\0", b"\0mounted\0"))


def test_a_table_that_cannot_be_is_refused_by_line(user: User, stack: Stack) -> None:
    stack.must_umount()
    for text, reason in (
        ("0 8 linear a.pool\n", "table line 1: linear takes MEMBER OFFSET"),
        ("0 8 linear gone.pool 0\n", "No such file"),
        ("\n0 8 mirror a.pool 0\n", "table line 2: there is no target 'mirror'"),
    ):
        stack.table("x", text)
        ran = cli("create", stack.base / "x.pool", "--table", stack.base / "x.table")
        assert ran.status == 16
        assert reason in ran.complaint
        assert not (stack.base / "x.pool").exists()
    ran = cli("create", stack.base / "x.pool", "--table", stack.base / "x.table", "--size", "1M")
    assert ran.status == 16
