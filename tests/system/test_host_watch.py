"""`watch`: what goes bad and what heals is told once, in order, with the file that is hit; what was
bad before is told at the start."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from hoststack import SIZES, HostStack, host_stack, must
from rawmount import PAGE, SECTOR, Mounted, cli, wait_until

pytestmark = [
    pytest.mark.timeout(90, method="signal"),
    pytest.mark.skipif(os.geteuid() != 0, reason="losetup and mount need root"),
    pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="no loop devices here"),
    pytest.mark.parametrize("user", ["root"], indirect=True),
    pytest.mark.parametrize("open_mode", ["direct"], indirect=True),
]

NEVER = "3600"  # so that no look by the clock helps


@pytest.fixture(params=["ext4"])
def stack(request: pytest.FixtureRequest, pool: Mounted) -> Iterator[HostStack]:
    pool.pool.unlink()
    pool.size = SIZES[request.param]
    pool.create()
    with host_stack(pool, request.param) as made:
        yield made


class Watching:
    """A `daxmend watch --json` of its own process, read a line at a time."""

    def __init__(self, *arguments: object) -> None:
        program = "from daxmend.cli import main; main()"
        words = [sys.executable, "-c", program, "watch", "--json", *map(str, arguments)]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self.rest = b""

    def __enter__(self) -> "Watching":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def next(self) -> dict[str, Any]:
        """The next event; fails if it takes too long."""
        assert self.process.stdout is not None
        while b"\n" not in self.rest:
            ready, _, _ = select.select([self.process.stdout], [], [], 30)
            assert ready, "no event came"
            got = os.read(self.process.stdout.fileno(), 1 << 16)
            assert got, self.process.communicate()
            self.rest += got
        line, _, self.rest = self.rest.partition(b"\n")
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    def until(self, name: str) -> dict[str, Any]:
        while (found := self.next())["event"] != name:
            pass
        return found

    def end(self, number: int) -> tuple[int, str]:
        """The exit status and stderr after a signal; `rest` is what nobody has read."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        self.rest += out
        return self.process.returncode, err.decode()


def heal(path: Path, page: int) -> None:
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), bytes(PAGE), page * PAGE)
        os.fsync(file.fileno())


def test_damage_and_healing_are_told_with_file_and_range(stack: HostStack) -> None:
    path = stack.make("dir/file")
    with Watching(stack.fs, "--interval", NEVER) as watching:
        first = watching.next()
        assert (first["event"], first["recorded"], first["unknown"]) == ("watch_started", 0, [])
        place = stack.damage_file(path, 5 * PAGE, 2 * SECTOR)
        found = watching.next()
        assert found["event"] == "bad_found"
        assert (found["offset"], found["length"]) == (place, 2 * SECTOR)
        assert (found["owner"], found["path"]) == ("file", str(path))
        assert (found["file_offset"], found["at_start"]) == (5 * PAGE, False)
        assert found["stack"][-1] == {"device": stack.loop, "offset": place}
        heal(path, 5)
        found = watching.next()
        assert (found["event"], found["path"]) == ("bad_gone", str(path))
        assert (found["offset"], found["length"]) == (place, 2 * SECTOR)
        assert watching.end(signal.SIGINT) == (0, "")


def test_what_is_bad_already_is_told_at_the_start_and_not_again(stack: HostStack) -> None:
    path = stack.make("file")
    stack.damage_file(path, 0)
    with Watching(path, stack.loop, "--interval", NEVER) as watching:
        for name in (str(path), stack.loop):
            started, found = watching.next(), watching.next()
            assert (started["event"], started["recorded"]) == ("watch_started", SECTOR)
            assert (found["event"], found["target"]) == ("bad_found", name)
            assert found["at_start"]
        stack.damage_file(path, 8 * PAGE)
        later = [watching.next(), watching.next()]
        assert {each["target"] for each in later} == {str(path), stack.loop}
        assert {each["file_offset"] for each in later} == {8 * PAGE}
        assert not any(each["at_start"] for each in later)
        assert watching.end(signal.SIGTERM) == (0, "")


def test_nothing_is_lost_while_it_starts(stack: HostStack) -> None:
    """Sectors go bad one by one around the start: each is told exactly once."""
    path = stack.make("file")
    seen: list[int] = []
    with Watching(path, "--interval", NEVER) as watching:
        for page in range(60):
            stack.damage_file(path, 2 * page * PAGE)
        while len(seen) < 60:
            found = watching.next()
            if found["event"] == "bad_found":
                seen += range(found["offset"], found["offset"] + found["length"], SECTOR)
    assert sorted(seen) == [2 * page * PAGE for page in range(60)]


def test_the_events_of_a_mount_of_ours_are_passed_on_beside_the_ranges(stack: HostStack) -> None:
    with Watching(stack.raw.mountpoint, "--interval", NEVER) as watching:
        assert watching.next()["event"] == "watch_started"
        stack.damage(40 << 20, 2 * SECTOR)
        got = {found["event"]: found for found in (watching.next(), watching.next())}
        assert set(got) == {"fault_injected", "bad_found"}
        for found in got.values():
            assert (found["offset"], found["length"]) == (40 << 20, 2 * SECTOR)
        assert got["fault_injected"]["kind"] == "until-written"


def test_a_pool_is_watched_through_its_mount_and_an_unmounted_one_is_refused(
    stack: HostStack, base: Path
) -> None:
    with Watching(stack.raw.pool, "--interval", NEVER) as watching:
        watching.next()
        stack.damage(40 << 20)
        assert watching.until("bad_found")["offset"] == 40 << 20
    assert cli("create", base / "other", "--size", "1M", "--durability", "process").status == 0
    ran = cli("watch", base / "other")
    assert (ran.status, ran.out) == (16, "")
    assert "mount it" in ran.err


def test_a_command_runs_for_each_event_and_is_told_what_happened(
    stack: HostStack, base: Path
) -> None:
    path = stack.make("file")
    told, documents = base / "told", base / "documents"
    run = f'echo "$DAXMEND_EVENT $DAXMEND_PATH $DAXMEND_OFFSET" >> {told}; cat >> {documents}'
    with Watching(path, "--exec", run + "; false", "--interval", NEVER) as watching:
        watching.until("watch_started")
        stack.damage_file(path, 3 * PAGE)
        assert watching.until("bad_found")["offset"] == 3 * PAGE
        wait_until(lambda: documents.exists() and documents.read_text().count("\n") == 2, "it ran")
        assert told.read_text().splitlines() == [
            "watch_started  ",
            f"bad_found {path} {3 * PAGE}",
        ]
        assert json.loads(documents.read_text().splitlines()[1])["length"] == SECTOR
        status, err = watching.end(signal.SIGTERM)
    assert status == 0
    assert "ended with 1" in err  # a command that fails is told, and the watch goes on


def test_a_target_that_goes_is_told_and_with_the_last_one_the_watch_ends(
    stack: HostStack,
) -> None:
    path = stack.make("file")
    with Watching(path, "--interval", "0.05") as watching:
        watching.until("watch_started")
        path.unlink()
        must("sync")
        stack.damage(40 << 20)  # something to look at
        assert watching.until("target_gone")["target"] == str(path)
        assert watching.process.wait(30) == 2


def test_a_server_that_dies_makes_it_unknown_and_not_clean_r44(stack: HostStack) -> None:
    path = stack.make("file")
    stack.damage_file(path, 0)
    with Watching(stack.loop, "--interval", "0.05") as watching:
        assert watching.until("bad_found")["at_start"]
        stack.raw.kill_server()
        found = watching.next()
        assert found["event"] == "unknown_changed"  # and nothing is said to be gone
        assert "died" in found["unknown"][0]
        assert watching.end(signal.SIGTERM) == (0, "")
        assert b"bad_gone" not in watching.rest


def test_a_device_that_changes_is_told(stack: HostStack) -> None:
    with Watching(stack.loop, "--interval", NEVER) as watching:
        watching.until("watch_started")
        must("sh", "-c", f"echo change > /sys/block/{Path(stack.loop).name}/uevent")
        found = watching.next()
        assert (found["event"], found["action"]) == ("device_changed", "change")
        assert found["device"] == Path(stack.loop).name
