"""The commands around a mount: pools in use, signals, and everything that can be got wrong.

Each mistake has its documented exit status (8 could not be done, 16 usage, 4 bad ranges remain, 2
unknown), one line that says what to do, no traceback, and no hang.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rawmount import (
    NEW,
    PAGE,
    SECTOR,
    Mounted,
    Ran,
    User,
    abort_mounts,
    call,
    cli,
    in_child,
    pattern,
    shell,
    take_away,
    wait,
    wait_until,
)

from daxmend.fuse import find_mount
from daxmend.media.pool import read_owner

pytestmark = pytest.mark.timeout(60, method="signal")
OPEN_MODES = ["direct"]  # what is asked here does not depend on it


def refused(ran: Ran, status: int, *words: str) -> None:
    """It failed with this status, and said these words in one line."""
    assert ran.status == status, ran
    assert ran.out == ""
    for word in words:
        assert word in ran.complaint, ran


def misused(ran: Ran, *words: str) -> None:
    """It was called wrongly, and said so: perhaps with the usage before it."""
    assert ran.status == 16, ran
    assert ran.out == ""
    assert "Traceback" not in ran.err
    last = ran.err.splitlines()[-1]
    for word in words:
        assert word in last, ran


def is_free(pool: Path) -> bool:
    return read_owner(pool) is None


@contextlib.contextmanager
def inside(directory: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


# -- a pool in use -------------------------------------------------------------------------


def test_a_pool_is_mounted_once_under_any_of_its_names(raw: Mounted) -> None:
    other = raw.base / "other"
    other.mkdir()
    alias, hard = raw.base / "alias", raw.base / "hard"
    alias.symlink_to("pool")
    os.link(raw.pool, hard)
    for name in (raw.pool, alias, hard, Path("pool"), Path("mnt/../pool")):
        refused(cli("mount", "--raw", name, other), 8, "in use", str(raw.mountpoint))
        assert find_mount(other) is None
    assert raw.pread(PAGE, 0) == pattern(0)


def test_commands_on_a_mounted_pool_go_through_its_mount_and_answer_the_same(raw: Mounted) -> None:
    ran = cli("inject", raw.pool, "--offset", 26 * PAGE + 5, "--length", 1)
    assert ran.status == 0, ran
    assert cli("inject", raw.pool, "--latent", "--offset", 9 * PAGE, "--length", 64).status == 0
    assert raw.badblocks == f"{26 * 8} 1\n"
    assert raw.read_control("poison") == f"{9 * PAGE} 64\n{26 * PAGE} {SECTOR}\n"
    answers = []
    for name in (raw.pool, raw.mountpoint, raw.device, raw.control / "badblocks"):
        ran = cli("list", "--json", name)
        assert (ran.status, ran.err) == (4, "")
        document = json.loads(ran.out)
        assert document.pop("target") == str(name)
        answers.append(document)
    raw.must_umount()
    document = json.loads(cli("list", "--json", raw.pool).out)
    assert document.pop("target") == str(raw.pool)
    assert answers == [document] * 4
    assert document["badblock_count"] == 1
    assert document["badblocks"] == [{"offset": 26 * 8, "length": 1}]
    assert document["ranges"] == [
        {"offset": 9 * PAGE, "length": 64, "state": "poison"},
        {"offset": 26 * PAGE, "length": SECTOR, "state": "poison"},
        {"offset": 26 * PAGE, "length": SECTOR, "state": "recorded"},
    ]


def test_un_injecting_through_the_mount_leaves_the_record_r2(raw: Mounted) -> None:
    raw.make_bad(26)
    ran = cli("inject", raw.pool, "--uninject", "--offset", 26 * PAGE, "--length", PAGE)
    assert ran.status == 0
    assert raw.badblocks == f"{26 * 8} 8\n"
    assert raw.read_control("poison") == ""


def test_list_exits_4_before_a_heal_and_0_after_it_mounted_or_not(raw: Mounted) -> None:
    raw.make_bad(26)
    assert cli("list", raw.pool).status == 4
    raw.pwrite(NEW, 26 * PAGE)
    assert cli("list", raw.pool).status == 0
    raw.must_umount()
    assert cli("list", raw.pool).status == 0
    assert cli("inject", raw.pool, "--offset", 0, "--length", 1).status == 0
    assert cli("list", raw.pool).status == 4
    raw.must_mount()
    assert cli("list", raw.pool).status == 4


def test_injecting_beyond_the_end_is_refused_mounted_or_not(raw: Mounted) -> None:
    raw.make_bad(5)
    for _ in range(2):
        for offset, length in (
            (raw.size, 1),
            (raw.size - 1, 2),
            (0, "5M"),
            ("8E", 1),
            ("9999T", 1),
        ):
            ran = cli("inject", raw.pool, "--offset", offset, "--length", length)
            assert ran.status == 16, ran
            assert "Traceback" not in ran.err
        assert cli("list", "--json", raw.pool).out.count('"recorded"') == 1
        if find_mount(raw.mountpoint):
            raw.must_umount()


def test_umount_returns_when_the_pool_is_free_for_the_next_mount(raw: Mounted) -> None:
    for _ in range(5):
        raw.must_umount()
        assert raw.mount() == Ran(0, "", "")
    assert raw.pread(PAGE, 9 * PAGE) == pattern(9)


# -- how a mount ends ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_server_unmounts_and_leaves_the_pool_in_order(
    raw: Mounted, number: signal.Signals
) -> None:
    raw.make_bad(5)
    raw.pwrite(NEW, 6 * PAGE)
    os.kill(raw.server, number)
    wait_until(lambda: is_free(raw.pool), "the pool is free")
    wait_until(lambda: find_mount(raw.mountpoint) is None, "the mount is gone")
    assert cli("list", raw.pool).status == 4
    raw.must_mount()
    assert raw.badblocks == "40 8\n"
    assert raw.pread(PAGE, 6 * PAGE) == NEW


def test_a_signal_to_the_server_of_a_mount_in_use_takes_it_away_too(raw: Mounted) -> None:
    raw.make_bad(5)
    reader = in_child((raw.control / "events").read_bytes)
    fd = os.open(raw.device, os.O_RDWR)
    os.kill(raw.server, signal.SIGTERM)
    wait_until(lambda: is_free(raw.pool), "the pool is free")
    wait_until(lambda: find_mount(raw.mountpoint) is None, "the mount is gone")
    assert wait(reader) == 1  # an error, not an end of file
    with pytest.raises(OSError):
        os.pread(fd, PAGE, 0)
    with contextlib.suppress(OSError):
        os.close(fd)
    raw.must_mount()
    assert raw.badblocks == "40 8\n"


def test_umount_of_a_busy_mount_says_so_and_leaves_it_mounted(raw: Mounted) -> None:
    with raw.opened():
        refused(raw.umount(), 8, str(raw.mountpoint), "in use")
        assert raw.pread(PAGE, 0) == pattern(0)
    with inside(raw.mountpoint):
        refused(cli("umount", raw.mountpoint), 8, "in use")
        refused(cli("umount", "."), 8, "in use")
    assert raw.badblocks == ""
    raw.must_umount()


def test_a_foreground_mount_ends_well_on_a_signal_and_on_umount(pool: Mounted) -> None:
    for end in (
        lambda pid: os.kill(pid, signal.SIGINT),
        lambda pid: os.kill(pid, signal.SIGTERM),
        lambda pid: pool.must_umount(),
    ):

        def body() -> None:
            assert cli("mount", "--raw", "-f", pool.pool, pool.mountpoint) == Ran(0, "", "")

        child = in_child(body)
        wait_until(lambda: find_mount(pool.mountpoint) is not None, "it is mounted")
        wait_until(lambda: (read_owner(pool.pool) or ("", ""))[1] != "", "it knows where")
        end(pool.server)
        assert wait(child) == 0
        wait_until(lambda: find_mount(pool.mountpoint) is None, "the mount is gone")


# -- what can be wrong with a mount point --------------------------------------------------


def test_mount_points_that_cannot_be_are_refused(pool: Mounted) -> None:
    file, full = pool.base / "file", pool.base / "full"
    file.write_bytes(b"")
    (full / "x").mkdir(parents=True)
    dangling = pool.base / "dangling"
    dangling.symlink_to("nowhere")
    for directory, word in (
        (pool.base / "missing", "does not exist"),
        (pool.base / "missing" / "too", "does not exist"),
        (dangling, "does not exist"),
        (file, "not a directory"),
        (file / "x", "not a directory"),
        (pool.pool, "not a directory"),
        (full, "not empty"),
    ):
        ran = cli("mount", "--raw", pool.pool, directory)
        refused(ran, 16, str(directory), word)
        assert is_free(pool.pool)


def test_a_mount_point_in_use_is_refused(raw: Mounted) -> None:
    second = raw.base / "second"
    assert cli("create", second, "--size", "1M", "--raw").status == 0
    refused(cli("mount", "--raw", second, raw.mountpoint), 8, str(raw.mountpoint), "mount")
    refused(cli("mount", "--raw", raw.pool, raw.mountpoint), 8)
    assert is_free(second)
    raw.kill_server()
    refused(cli("mount", "--raw", second, raw.mountpoint), 8, "dead", "daxmend umount")
    assert is_free(second)
    raw.must_umount()
    assert cli("mount", "--raw", second, raw.mountpoint) == Ran(0, "", "")
    assert cli("umount", raw.mountpoint) == Ran(0, "", "")


def test_umount_of_what_is_no_daxmend_mount_is_refused(pool: Mounted) -> None:
    for path in (pool.mountpoint, pool.pool, pool.base / "missing", "/proc", "/"):
        for options in ([], ["-F"]):
            refused(cli("umount", *options, path), 16, "not a daxmend mount")


def test_a_log_that_cannot_be_written_stops_the_mount(pool: Mounted) -> None:
    for log in (pool.base / "missing" / "log", pool.base):
        ran = cli("mount", "--raw", "--log", log, pool.pool, pool.mountpoint)
        refused(ran, 8, str(log))
        assert find_mount(pool.mountpoint) is None
        assert is_free(pool.pool)


# -- what can be wrong with a pool ---------------------------------------------------------


def spoiled(pool: Mounted) -> dict[str, tuple[int, Path]]:
    """Things that are not a pool, or not a whole one, and the exit status that each deserves."""
    base = pool.base
    whole = pool.pool.read_bytes()
    things = {
        "missing": (8, base / "missing"),
        "no-directory": (8, base / "missing" / "pool"),
        "below-a-file": (8, pool.pool / "pool"),
        "empty": (16, base / "empty"),
        "text": (16, base / "text"),
        "zeros": (16, base / "zeros"),
        "fifo": (16, base / "fifo"),
        "device": (16, Path("/dev/zero")),
        "short": (8, base / "short"),
        "shorter": (8, base / "shorter"),
        "no-header": (8, base / "no-header"),
    }
    (base / "empty").write_bytes(b"")
    (base / "text").write_bytes(b"not a pool\n")
    (base / "zeros").write_bytes(bytes(1 << 20))
    os.mkfifo(base / "fifo")
    (base / "short").write_bytes(whole[:-PAGE])
    (base / "shorter").write_bytes(whole[:5000])
    (base / "no-header").write_bytes(whole[:40] + b"??" + whole[42:4136] + b"??" + whole[4138:])
    return things


def test_what_is_no_pool_or_a_damaged_one_is_refused_by_every_command(pool: Mounted) -> None:
    for name, (status, path) in spoiled(pool).items():
        for command in (
            ("list", path),
            ("list", "--json", path),
            ("inject", path, "--offset", "0", "--length", "1"),
            ("mount", "--raw", path, pool.mountpoint),
        ):
            ran = cli(*command)
            if command[0] == "list" and name in ("empty", "text", "zeros"):
                # An ordinary file: the kernel is asked, which has a record of it or none.
                assert ran.status in (0, 2), (name, command, ran)
                continue
            assert ran.status in (status, 16 if name == "fifo" else status, 8), (name, command, ran)
            assert ran.out == ""
            assert ran.complaint.startswith("daxmend: "), (name, command, ran)
        assert find_mount(pool.mountpoint) is None


def test_a_pool_with_one_damaged_header_serves_and_is_repaired(pool: Mounted) -> None:
    whole = pool.pool.read_bytes()
    for offset in (40, 4096 + 40):
        with open(pool.pool, "r+b") as file:
            file.seek(offset)
            file.write(b"????")
        ran = pool.mount()
        assert (ran.status, ran.out) == (0, "")
        assert "rewritten from the other copy" in ran.complaint
        assert pool.pread(PAGE, 0) == bytes(PAGE)
        pool.must_umount()
        with open(pool.pool, "rb") as file:
            assert file.read(8192) == whole[:8192]


def test_a_directory_is_no_target_unless_something_is_mounted_there(pool: Mounted) -> None:
    refused(cli("list", pool.mountpoint), 16, str(pool.mountpoint), "mount")
    refused(cli("list", pool.base), 16)
    refused(cli("mount", "--raw", pool.base, pool.mountpoint), 8)
    refused(cli("inject", pool.mountpoint, "--offset", "0", "--length", "1"), 16)


@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_without_permission_a_pool_is_unknown_and_not_clean_r44(pool: Mounted) -> None:
    pool.pool.chmod(0)
    refused(cli("list", pool.pool), 2, str(pool.pool), "ermission")
    refused(cli("mount", "--raw", pool.pool, pool.mountpoint), 8, str(pool.pool), "ermission")
    refused(cli("inject", pool.pool, "--offset", "0", "--length", "1"), 8, "ermission")
    pool.pool.chmod(0o400)  # may be asked, but not changed
    assert cli("list", pool.pool).status == 0
    refused(cli("mount", "--raw", pool.pool, pool.mountpoint), 8, "ermission")
    refused(cli("inject", pool.pool, "--offset", "0", "--length", "1"), 8, "ermission")
    pool.pool.chmod(0o600)
    closed = pool.base / "closed"
    closed.mkdir(mode=0)
    refused(cli("list", closed / "pool"), 2, "ermission")
    refused(cli("create", closed / "pool", "--size", "1M", "--raw"), 8, "ermission")
    refused(cli("mount", "--raw", pool.pool, closed), 16, str(closed), "ermission")
    closed.chmod(0o700)


# -- what can be wrong with the words ------------------------------------------------------


def test_options_that_mean_nothing_are_refused(pool: Mounted) -> None:
    nonsense = "nonsense open= open=fast recovery recovery=maybe open = a=b OPEN=direct"
    for options in [*nonsense.split(), "open=direct,x", "open=direct ,x=y", "recovery=on=off"]:
        misused(cli("mount", "--raw", "-o", options, pool.pool, pool.mountpoint), "not known")
        assert find_mount(pool.mountpoint) is None
    misused(cli("mount", pool.pool, pool.mountpoint), "--raw")
    misused(cli("mount", "--raw", pool.pool))
    misused(cli("mount", "--raw", pool.pool, pool.mountpoint, "more"))
    misused(cli("mount", "--raw", "--nonsense", pool.pool, pool.mountpoint))
    assert is_free(pool.pool)


def test_sizes_that_mean_nothing_are_refused_and_make_no_file(base: Path) -> None:
    new = base / "new"
    nonsense = (
        "x -1 -4096 0 1 4095 4097 1.5M 1MB 1MiB M 0x1000 1e6 1_000_000 \u0661M 8E 9999999999T"
    )
    for size in (*nonsense.split(), "", " ", "1 M", "9" * 30, "9" * 5000):
        misused(cli("create", new, "--size", size, "--raw"))
        assert not new.exists()


def test_sizes_that_the_file_system_cannot_hold_are_refused_and_make_no_file(pool: Mounted) -> None:
    new = pool.base / "new"
    ran = cli("create", new, "--size", "4000000T", "--raw")
    assert ran.status in (8, 16), ran
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert not new.exists()


def test_create_never_writes_over_what_is_there(pool: Mounted) -> None:
    before = pool.pool.read_bytes()
    link, directory = pool.base / "link", pool.base / "directory"
    link.symlink_to(pool.base / "elsewhere")
    directory.mkdir()
    for path in (pool.pool, link, directory):
        refused(cli("create", path, "--size", "1M", "--raw"), 16, str(path), "exists")
    assert pool.pool.read_bytes() == before
    assert not (pool.base / "elsewhere").exists()
    refused(cli("create", pool.base / "no" / "pool", "--size", "1M", "--raw"), 8, "No such file")
    refused(cli("create", pool.pool / "pool", "--size", "1M", "--raw"), 8, "Not a directory")


def test_injections_that_mean_nothing_are_refused(pool: Mounted) -> None:
    for words in (
        ("--offset", "0", "--length", "0"),
        ("--offset", "-1", "--length", "1"),
        ("--offset", "0", "--length", "-1"),
        ("--offset", "x", "--length", "1"),
        ("--offset", "0"),
        ("--length", "1"),
        (),
        ("--offset", "0", "--length", "1", "--latent", "--uninject"),
        ("--offset", "9" * 5000, "--length", "1"),
    ):
        misused(cli("inject", pool.pool, *words))
    assert cli("list", pool.pool).status == 0


def test_unknown_commands_and_options_are_refused(pool: Mounted) -> None:
    misused(cli("nonsense"), "nonsense")
    misused(cli("--nonsense"), "nonsense")
    misused(cli("list"), "TARGET")
    misused(cli("list", "--nonsense", pool.pool), "nonsense")
    misused(cli("list", pool.pool, pool.pool))


# -- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["with space", "with,comma", "with\\backslash", "with=equals", "ünïcode", "#hash", "'\"quotes",
     "new\nline", "tab\there", "-dash", "%s%n", "*?[a]"],
)  # fmt: skip
def test_pools_and_mount_points_may_have_any_name(base: Path, programs: Path, name: str) -> None:
    mounted = Mounted(base, "direct", programs)
    mounted.pool, mounted.mountpoint = base / f"{name}.pool", base / f"{name}.dir"
    mounted.device, mounted.control = mounted.mountpoint / "device", mounted.mountpoint / ".daxmend"
    mounted.create()
    mounted.must_mount()
    mounted.make_bad(5)
    assert cli("list", mounted.pool).status == 4
    assert cli("list", mounted.mountpoint).status == 4
    mounted.pwrite(NEW, 5 * PAGE)
    mounted.must_umount()
    with inside(base):  # relative, and not taken for an option
        words = ("mount", "--raw", "--", f"{name}.pool", f"{name}.dir")
        assert cli(*words) == Ran(0, "", "")
        assert cli("list", "--", f"{name}.dir").status == 0
        assert cli("umount", "--", f"{name}.dir") == Ran(0, "", "")
    assert is_free(mounted.pool)


def test_a_mount_point_may_be_named_from_within_and_by_a_link(pool: Mounted) -> None:
    link = pool.base / "link"
    link.symlink_to("mnt")
    with inside(pool.mountpoint):
        assert cli("mount", "--raw", "../pool", ".") == Ran(0, "", "")
    assert os.listdir(pool.mountpoint) == ["device"]
    assert cli("list", link).status == 0
    assert cli("umount", link) == Ran(0, "", "")
    assert cli("mount", "--raw", pool.pool, link) == Ran(0, "", "")
    assert os.listdir(pool.mountpoint) == ["device"]
    assert cli("list", pool.pool).status == 0
    pool.must_umount()


def test_the_server_does_not_hold_on_to_the_directory_that_it_was_started_in(pool: Mounted) -> None:
    with inside(pool.base):
        pool.must_mount()
    try:
        directory = os.readlink(f"/proc/{pool.server}/cwd")
    except PermissionError:
        pytest.skip("a process that changed its user does not tell")
    assert directory == "/"


# -- the program itself --------------------------------------------------------------------


def program() -> list[str]:
    """The installed `daxmend`, if whoever runs this may run it."""
    script = Path(sys.prefix, "bin", "daxmend")
    try:
        subprocess.run([script, "--version"], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"{script} cannot be run by this user")
    return [str(script)]


def test_the_installed_program_tells_the_story(pool: Mounted) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        words = [*daxmend, *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
        return done.returncode, done.stdout, done.stderr

    daxmend = program()
    new = pool.base / "new"
    status, out, err = run("create", new, "--size", "4M", "--raw")
    assert (status, err) == (0, "")
    assert run("mount", "--raw", new, pool.mountpoint) == (0, "", "")  # and does not hold the pipe
    assert shell(f"echo 208 1 > {pool.control}/badblocks").status == 0
    assert run("list", new)[0] == 4
    assert (
        shell(f"dd if=/dev/zero of={pool.device} bs=4096 seek=26 count=1 conv=notrunc").status == 0
    )
    assert run("list", new)[0] == 0
    assert run("umount", pool.mountpoint) == (0, "", "")
    assert run("mount", "--raw", new, pool.base / "missing")[0] == 16
    assert out.startswith(str(new))


def test_a_reader_that_goes_away_is_no_traceback(pool: Mounted) -> None:
    daxmend = " ".join(program())
    lines = "".join(f"- {sector * 1024} 512 latent\n" for sector in range(3000))
    (pool.base / "plan").write_text(lines)
    assert cli("inject", pool.pool, "--plan", pool.base / "plan").status == 0
    for options in ("", "--json"):
        ran = shell(f"{daxmend} list {options} {pool.pool} | head -n 1")
        assert "Traceback" not in ran.err
        assert "Exception" not in ran.err


@pytest.fixture
def foreign(base: Path, programs: Path, user: User) -> Iterator[Mounted]:
    """A mount of the *other* user's: root's if the test is the ordinary user's, and vice versa."""
    if os.geteuid() != 0:
        pytest.skip("two users need root")
    nobody = User("nobody", 65534, 65534)
    other = nobody if user.is_root else User("root", 0, 0)
    theirs = base / "theirs"
    theirs.mkdir(mode=0o755)
    os.chown(theirs, other.uid, other.gid)
    mounted = Mounted(theirs, "direct", programs)

    def prepare() -> None:
        mounted.create()
        mounted.must_mount()
        mounted.make_bad(5)

    try:
        call(prepare, other, 20, lambda: abort_mounts(theirs))
        yield mounted
    finally:
        take_away(mounted, other)


def test_another_users_mount_is_unknown_not_clean_and_cannot_be_changed_r44(
    foreign: Mounted, user: User
) -> None:
    for name in (foreign.mountpoint, foreign.pool):
        for options in ([], ["--json"]):
            ran = cli("list", *options, name)
            refused(ran, 2, str(foreign.mountpoint))
        refused(cli("inject", name, "--offset", "0", "--length", "1"), 8)
    if not user.is_root:
        for options in ([], ["-F"]):
            ran = cli("umount", *options, foreign.mountpoint)
            refused(ran, 8, str(foreign.mountpoint), "was mounted by root")
            assert find_mount(foreign.mountpoint) is not None


# -- what is printed -----------------------------------------------------------------------

MOUNT_ONLY = {"pid", "mounted_ns", "recovery", "healed", "events", "refused", "scrub"}


def test_status_says_the_same_of_a_pool_mounted_or_not(raw: Mounted) -> None:
    raw.make_bad(26)
    raw.write_control("poison", f"{9 * PAGE} 64\n")
    mounted = []
    for name in (raw.pool, raw.mountpoint):
        ran = cli("status", "--json", name)
        assert (ran.status, ran.err) == (4, "")
        mounted.append(json.loads(ran.out))
    assert mounted[0] == mounted[1]
    raw.must_umount()
    unmounted = json.loads(cli("status", "--json", raw.pool).out)
    assert set(mounted[0]) - set(unmounted) == MOUNT_ONLY
    assert mounted[0].pop("mounted") == str(raw.mountpoint)
    assert unmounted.pop("mounted") is None
    assert {name: mounted[0][name] for name in unmounted} == unmounted
    assert (unmounted["device"], unmounted["recorded"]) == (str(raw.pool), PAGE)


def test_a_scrub_of_a_mounted_pool_whose_file_was_cut_short_is_no_clean_one_r44(
    raw: Mounted,
) -> None:
    size = raw.pool.stat().st_size
    os.truncate(raw.pool, size - PAGE)
    for name in (raw.pool, raw.mountpoint):
        refused(cli("scrub", name), 8, "cut short")
    assert raw.log.read_text().count("cut short") == 2
    raw.log.write_text("")
    os.truncate(raw.pool, size)
    assert cli("scrub", raw.pool).status == 0


def test_what_was_done_is_told_even_if_standard_output_is_full(base: Path) -> None:
    new = base / "new"
    daxmend = " ".join(program())
    for json_ in ("", "--json"):
        for words, status in (
            (f"create {new} --size 1M --raw", 8),
            (f"inject {new} --offset 0 --length 1", 8),
            (f"scrub {new}", 8),
        ):
            ran = shell(f"{daxmend} {words} {json_} >/dev/full")
            refused(ran, status, str(new), "No space left on device")
        assert cli("list", new).status == 4
        refused(shell(f"{daxmend} list {new} {json_} >/dev/full"), 8, "could not be printed: No")
        refused(
            shell(f"{daxmend} create {new}.2 --size 1M --raw {json_} >/dev/full"), 8, "was made"
        )
        os.unlink(f"{new}.2")
        os.unlink(new)


def test_standard_output_may_be_closed(pool: Mounted) -> None:
    daxmend = " ".join(program())
    assert shell(f"{daxmend} list {pool.pool} >&-") == Ran(0, "", "")
