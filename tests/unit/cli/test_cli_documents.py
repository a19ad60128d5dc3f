"""What the commands print: help, JSON documents, tables, and one line when something is wrong."""

import errno
import json
from pathlib import Path

import pytest

from daxmend.cli import COMMANDS, run
from daxmend.stack.pool import create

SECTOR, PAGE = 512, 4096


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A pool in which sectors 208–209 and a latent line are bad."""
    path = tmp_path / "pool"
    create(path, 1 << 20)
    assert run(["inject", str(path), "--offset", str(208 * SECTOR), "--length", "1024"]) == 0
    assert run(["inject", str(path), "--latent", "--offset", "4100", "--length", "1"]) == 0
    return path


def document(capsys: pytest.CaptureFixture[str]) -> object:
    """The one JSON document on stdout; nothing on stderr."""
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help_with_a_usage_line(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, option]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"Usage: daxmend {command} ")
    assert len(out.splitlines()) > 4


def test_the_help_of_the_program_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in out


def test_create_prints_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new"
    words = ["create", str(path), "--size", "1M", "--raw", "--durability", "machine", "--json"]
    assert run(words) == 0
    found = document(capsys)
    assert isinstance(found, dict)
    assert {"pool": str(path), "size": 1 << 20, "durability": "machine"}.items() <= found.items()


def test_list_prints_badblocks_in_sectors_and_ranges_in_bytes_r47(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["list", "--json", str(pool)]) == 4
    assert document(capsys) == {
        "target": str(pool),
        "badblock_count": 2,
        "badblocks": [{"offset": 208, "length": 2}],
        "ranges": [
            {"offset": 4096, "length": 64, "state": "poison"},
            {"offset": 208 * SECTOR, "length": 1024, "state": "poison"},
            {"offset": 208 * SECTOR, "length": 1024, "state": "recorded"},
        ],
    }


def test_the_list_of_a_clean_pool_is_an_empty_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create(tmp_path / "pool", 1 << 20)
    assert run(["list", "--json", str(tmp_path / "pool")]) == 0
    found = document(capsys)
    assert isinstance(found, dict)
    assert (found["badblock_count"], found["badblocks"], found["ranges"]) == (0, [], [])


def test_latent_poison_alone_is_shown_but_is_no_bad_block_r1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pool"
    create(path, 1 << 20)
    assert run(["inject", str(path), "--latent", "--offset", "0", "--length", "64"]) == 0
    capsys.readouterr()
    assert run(["list", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"{path}: no bad blocks recorded"
    assert "poison" in out


def test_inject_prints_what_is_bad_now_widened(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ["inject", str(pool), "--offset", "1000", "--length", "100", "--json"]
    for option, ranges in (
        (None, (512, 1024)),
        ("--latent", (960, 192)),
        ("--uninject", (960, 192)),
    ):
        assert run(words + ([option] if option else [])) == 0
        found = document(capsys)
        assert isinstance(found, dict)
        assert found["target"] == str(pool)
        assert [(r["offset"], r["length"]) for r in found["ranges"]] == [ranges]


def test_the_table_of_list_says_how_much_and_where(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["list", str(pool)]) == 4
    out, err = capsys.readouterr()
    assert err == ""
    first, heading, *rows = out.splitlines()
    assert first == f"{pool}: 1024 bytes are recorded as bad"
    assert heading.split() == ["OFFSET", "LENGTH", "STATE"]
    assert [row.split() for row in rows] == [
        ["4096", "64", "poison"],
        [str(208 * SECTOR), "1024", "poison"],
        [str(208 * SECTOR), "1024", "recorded"],
    ]


@pytest.mark.parametrize("command", ["list", "status"])
def test_a_command_that_fails_prints_no_document_and_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, "--json", str(tmp_path / "missing")]) == 8
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"daxmend: {tmp_path / 'missing'}: No such file or directory\n"


@pytest.mark.parametrize("size", ["4K", "4k", "4096", " 4K ", "1M", "1m", "16M"])
def test_sizes_are_understood(size: str, tmp_path: Path) -> None:
    assert run(["create", str(tmp_path / "pool"), "--size", size, "--raw"]) == 0


def test_an_unexpected_system_error_is_one_line_with_the_files_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["create", str(tmp_path / "a" / "pool"), "--size", "1M", "--raw"]) == 8
    err = capsys.readouterr().err
    assert err == f"daxmend: {tmp_path / 'a' / 'pool'}: No such file or directory\n"


def test_a_pool_that_was_made_is_said_to_be_made_if_that_cannot_be_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "pool"
    monkeypatch.setattr("daxmend.cli.create_command.print_json", fail)
    assert run(["create", str(path), "--size", "1M", "--raw", "--json"]) == 8
    err = capsys.readouterr().err
    assert err == (
        f"daxmend: {path} was made, but that could not be printed: No space left on device\n"
    )
    assert run(["list", str(path)]) == 0


@pytest.mark.parametrize(("said", "unit"), [("64", 64), ("512", 512), ("4K", 4096)])
def test_the_unit_of_the_clear_command_can_be_chosen_r7(
    said: str, unit: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pool"
    words = ["create", str(path), "--size", "1M", "--raw", "--clear-unit", said, "--json"]
    assert run(words) == 0
    created = document(capsys)
    assert isinstance(created, dict)
    assert created["clear_unit"] == unit
    assert run(["status", "--json", str(path)]) == 0
    status = document(capsys)
    assert isinstance(status, dict)
    assert status["clear_unit"] == unit


@pytest.mark.parametrize("said", ["0", "32", "100", "8K", "x", "-64"])
def test_a_clear_unit_that_cannot_be_is_a_usage_error_and_makes_no_file(
    said: str, tmp_path: Path
) -> None:
    path = tmp_path / "pool"
    assert run(["create", str(path), "--size", "1M", "--raw", "--clear-unit", said]) == 16
    assert not path.exists()


def test_every_line_of_the_programs_help_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


def test_the_slash_that_a_file_of_a_pool_needs_is_told(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for forgotten, right in (("file", "file"), ("", "PATH")):
        assert run(["list", f"{pool}:{forgotten}"]) == 8
        err = capsys.readouterr().err
        assert err == (
            f"daxmend: {pool}:{forgotten}: No such file or directory; "
            f"a file in a pool is {pool}:/{right}\n"
        )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EFBIG, "File too large"), "{path}: File too large"),
        (OSError(errno.ENOSPC, "{path}: no space", "{path}"), "{path}: no space"),
        (OSError(errno.EIO, "no input", "{path}"), "{path}: no input"),
    ],
)
def test_a_system_error_of_create_names_the_pool_once(
    error: OSError,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = str(tmp_path / "pool")

    def fail(*_: object, **__: object) -> None:
        raise OSError(
            error.errno,
            str(error.strerror).format(path=path),
            error.filename and error.filename.format(path=path),
        )

    monkeypatch.setattr("daxmend.cli.create_command.create", fail)
    assert run(["create", path, "--size", "1M"]) == 8
    assert capsys.readouterr().err == f"daxmend: {said.format(path=path)}\n"


def test_the_table_of_status_says_what_people_read(
    pool: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scrub = {"state": "2+", "scrubbed": 4096, "total": 1 << 20, "error": ""}
    more = {"recovery": True, "read_only": False, "mounted_ns": 10**18, "scrub": scrub}
    monkeypatch.setattr(
        "daxmend.rescue.pool.summarize", lambda _: {"recorded": 0, "events": {}, **more}
    )
    assert run(["status", str(pool)]) == 0
    found = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert found["recovery:"] == "on"
    assert found["read_only:"] == "no"
    assert found["events:"] == "none"
    assert found["mounted_ns:"].startswith("2001-09-0")
    assert found["scrub:"] == "2 done, running: 4 KiB of 1 MiB"
    scrub.update(state="3", error="it broke")
    assert run(["status", str(pool)]) == 0
    assert "3 done, stopped: it broke\n" in capsys.readouterr().out
