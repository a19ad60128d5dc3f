"""How `watch` prints an event, for people and as JSON; and what it refuses."""

import json
import stat
from pathlib import Path

import pytest

from daxmend.cli import run, watch_command
from daxmend.cli.watch_command import describe_event
from daxmend.extent import Extent
from daxmend.media.pool import Content
from daxmend.rescue.target import Place, Range
from daxmend.rescue.watch import WatchEvent
from daxmend.stack.device import open_device
from daxmend.stack.filesystem import open_filesystem
from daxmend.stack.pool import create

FOUND = Range(
    Extent(8192, 512), "recorded", 8192, "file", b"/mnt/a\nb", 512, (Place("/dev/pmem0", 8192),)
)
EVENTS = [
    WatchEvent(5, "watch_started", "/mnt", None, {"recorded": 512, "unknown": []}),
    WatchEvent(6, "bad_found", "/mnt", FOUND, {"at_start": True}),
    WatchEvent(7, "bad_gone", "/mnt", FOUND._replace(owner=None, file_offset=None), {}),
    WatchEvent(8, "target_gone", "/mnt", None, {"why": "unmounted"}),
]


class _Watch:
    """Stands for `Watch`: these events, then no target is left."""

    notices: tuple[str, ...] = ("uevents cannot be heard",)

    def __init__(self, names: tuple[str, ...], interval_s: float) -> None:
        assert names == ("/mnt",)
        assert interval_s == 0.5

    def events(self) -> list[WatchEvent]:
        return EVENTS

    def close(self) -> None:
        pass


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_command, "Watch", _Watch)


def test_an_event_of_a_range_has_what_locate_says() -> None:
    assert describe_event(EVENTS[1]) == {
        "time_ns": 6,
        "event": "bad_found",
        "target": "/mnt",
        "at_start": True,
        "offset": 8192,
        "length": 512,
        "state": "recorded",
        "owner": "file",
        "path": "/mnt/a\nb",
        "file_offset": 512,
        "stack": [{"device": "/dev/pmem0", "offset": 8192}],
    }


def test_json_is_one_document_a_line(events: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", "/mnt", "--interval", "0.5", "--json"]) == 2
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == list(map(describe_event, EVENTS))
    assert "uevents cannot be heard" in err


def test_people_read_one_line_an_event(events: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", "/mnt", "--interval", "0.5"]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "/mnt: watch_started: recorded 512, unknown []",
        "/mnt: bad_found: 512 bytes at offset 8192, /mnt/a\\nb at offset 512, on /dev/pmem0 8192"
        " (at start)",
        "/mnt: bad_gone: 512 bytes at offset 8192, on /dev/pmem0 8192",
        "/mnt: target_gone: why unmounted",
    ]


def test_a_command_that_cannot_run_is_told_and_the_watch_goes_on(
    events: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["watch", "/mnt", "--interval", "0.5", "--exec", "exit 3"]) == 2
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == len(EVENTS)
    assert err.count("ended with 3") == len(EVENTS)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 16),
        (["nowhere"], 8),
        (["pool"], 16),
        (["pool", "--interval", "0"], 16),
        ([".", "--interval", "1"], 16),
    ],
)
def test_what_cannot_be_watched_is_refused_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    create(tmp_path / "pool", 1 << 20)
    assert run(["watch", *arguments]) == status
    assert capsys.readouterr().out == ""


def test_a_file_in_a_pool_that_is_not_mounted_cannot_be_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    create(tmp_path / "pool", 4 << 20, content=Content.FS)
    device = open_device(tmp_path / "pool")
    fs = open_filesystem(device)
    fs.make(fs.root, b"file", stat.S_IFREG | 0o644, 0, 0)
    fs.close()
    device.close()
    assert run(["watch", "pool:/file"]) == 16
    assert "pool:/file is not mounted: mount it" in capsys.readouterr().err
