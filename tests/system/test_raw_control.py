"""The control files of a raw mount: badblocks, poison, ranges (R2, R9)."""

import errno
import os
import stat

import pytest
from rawmount import NEW, PAGE, SECTOR, Mounted, pattern, program, shell

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True

LAST = (4 << 20) // SECTOR - 1

BAD_BADBLOCKS_LINES = [
    "x",
    "208",
    "208 ",
    "208 1 1",
    "208 0",
    "-208 1",
    "208 -1",
    "+208 1",
    "208,1",
    "208 1x",
    "0xd0 1",
    "208.0 1",
    "1e2 1",
    "1_0 1",
    "208 1\0",
    "208 ١",  # a digit, but not ASCII
    "²08 1",
    f"{LAST + 1} 1",
    f"{LAST} 2",
    f"0 {LAST + 2}",
    f"{1 << 54} 1",
    f"{1 << 55} {1 << 55}",
    f"{1 << 63} 1",
    f"{1 << 64} 1",  # would be sector 0 in 64 bits
    f"{(1 << 64) + 208} 1",
    f"208 {(1 << 64) + 1}",
    "9" * 5000 + " 1",  # more digits than int() takes
    "208 " + "0" * 5000 + "1",
]

BAD_POISON_LINES = [
    "x",
    "4096",
    "4096 64 64",
    "4096 0",
    "-4096",
    "-4096 0",
    "--4096 64",
    "- 4096 -64",
    "4096 -64",
    "+4096 64",
    f"{4 << 20} 64",
    f"{(4 << 20) - 1} 2",
    f"-{(4 << 20) - 1} 2",
    f"{1 << 63} 64",
    f"{(1 << 64) + 4096} 64",
    "9" * 5000 + " 64",
]


def refused(raw: Mounted, name: str, text: str) -> None:
    """The write is EINVAL and changes nothing."""
    before = raw.read_control("ranges"), raw.pread(PAGE, 0)
    fd = os.open(raw.control / name, os.O_WRONLY)
    with pytest.raises(OSError) as info:
        os.write(fd, text.encode())
    os.close(fd)
    assert info.value.errno == errno.EINVAL, text
    assert (raw.read_control("ranges"), raw.pread(PAGE, 0)) == before, text


def test_echo_injects_and_cat_reads_as_from_the_kernels_file_r9(raw: Mounted) -> None:
    ran = shell(f'echo "208 1" > {raw.control}/badblocks')
    assert ran == (0, "", "")
    assert program("cat", raw.control / "badblocks") == (0, "208 1\n", "")
    assert program("cat", raw.control / "poison") == (0, f"{208 * SECTOR} {SECTOR}\n", "")
    assert program("cat", raw.control / "ranges") == (
        0,
        f"{208 * SECTOR} {SECTOR} poison -\n{208 * SECTOR} {SECTOR} recorded -\n",
        "",
    )
    for lines in ("209 1", "0 3", "100 2"):
        shell(f"echo {lines} > {raw.control}/badblocks")
    assert raw.badblocks == "0 3\n100 2\n208 2\n"  # merged, ascending


def test_the_record_merges_and_splits_correctly_r8(raw: Mounted) -> None:
    raw.write_control("badblocks", "0 1\n5 1\n0 7\n")  # 6.1 loses sector 6
    assert raw.badblocks == "0 7\n"
    raw.pwrite(bytes(SECTOR), 3 * SECTOR)
    assert raw.badblocks == "0 3\n4 3\n"


def test_a_record_of_thousands_of_ranges_reads_whole_r8(raw: Mounted) -> None:
    lines = "".join(f"{sector} 1\n" for sector in range(0, LAST, 8))
    for start in range(0, len(lines), 4000):  # as few programs write more at once
        end = lines.index("\n", min(start + 4000, len(lines) - 1)) + 1
        begin = lines.rindex("\n", 0, start) + 1 if start else 0
        raw.write_control("badblocks", lines[begin:end])
    assert raw.badblocks == lines
    assert program("dd", f"if={raw.control}/badblocks", "bs=7", "status=none") == (0, lines, "")


@pytest.mark.parametrize("open_mode", ["direct"], indirect=True)
def test_malformed_badblocks_lines_are_einval_and_change_nothing_r9(raw: Mounted) -> None:
    for line in BAD_BADBLOCKS_LINES:
        refused(raw, "badblocks", f"{line}\n")
        refused(raw, "badblocks", line)
        refused(raw, "badblocks", f"0 1\n8 1\n{line}\n16 1\n")  # all or nothing
        refused(raw, "badblocks", f"{line}\n0 1\n")


@pytest.mark.parametrize("open_mode", ["direct"], indirect=True)
def test_malformed_poison_lines_are_einval_and_change_nothing_r2(raw: Mounted) -> None:
    for line in BAD_POISON_LINES:
        refused(raw, "poison", f"{line}\n")
        refused(raw, "poison", f"0 64\n-0 64\n{line}\n")
        refused(raw, "poison", f"{line}\n0 64\n")


def test_empty_lines_mean_nothing(raw: Mounted) -> None:
    raw.write_control("badblocks", "\n")
    raw.write_control("poison", "\n \n")
    assert raw.read_control("ranges") == ""
    raw.write_control("badblocks", "\n\n8 1\n\n")
    assert raw.badblocks == "8 1\n"


def test_the_last_sector_and_the_last_byte_can_be_named(raw: Mounted) -> None:
    raw.write_control("badblocks", f"{LAST} 1\n")
    raw.write_control("poison", f"{raw.size - 1025} 1\n")
    assert raw.badblocks == f"{LAST} 1\n"
    assert raw.read_control("poison") == (f"{raw.size - 1088} 64\n{raw.size - SECTOR} {SECTOR}\n")


def test_latent_poison_makes_no_record_until_something_reads_it_r3(raw: Mounted) -> None:
    raw.write_control("poison", f"{26 * PAGE + 100} 1\n")
    assert raw.badblocks == ""
    assert raw.read_control("ranges") == f"{26 * PAGE + 64} 64 poison -\n"
    with pytest.raises(OSError):
        raw.pread(SECTOR, 26 * PAGE)
    assert raw.badblocks == f"{26 * 8} 1\n"
    assert raw.read_control("ranges") == (
        f"{26 * PAGE} {SECTOR} recorded -\n{26 * PAGE + 64} 64 poison -\n"
    )


def test_a_minus_takes_poison_away_and_leaves_the_record_r2(raw: Mounted) -> None:
    raw.write_control("badblocks", "208 2\n")
    raw.write_control("poison", f"-{208 * SECTOR} {SECTOR}\n")
    assert raw.badblocks == "208 2\n"
    assert raw.read_control("poison") == f"{209 * SECTOR} {SECTOR}\n"
    with pytest.raises(OSError):
        raw.pread(1, 208 * SECTOR)


def test_latent_poison_that_is_taken_away_leaves_a_readable_page_with_the_pattern_r2(
    raw: Mounted,
) -> None:
    raw.write_control("poison", f"{26 * PAGE} 64\n")
    raw.write_control("poison", f"-{26 * PAGE} 64\n")
    assert raw.read_control("ranges") == ""
    page = raw.pread(PAGE, 26 * PAGE)
    assert b"POISON" in page[:64]
    assert page[64:] == pattern(26)[64:]


def test_lines_are_done_in_their_order(raw: Mounted) -> None:
    raw.write_control("poison", "0 128\n-0 64\n64 64\n-64 64\n128 64\n")
    assert raw.read_control("poison") == "128 64\n"


def test_a_write_that_was_cut_inside_a_line_is_refused_not_misread(raw: Mounted) -> None:
    """stdio cuts at 4 KiB, cat at 128 KiB, the kernel at 1 MiB: `1234 56` is not `1234 5`."""
    refused(raw, "badblocks", "0 1\n1000 1\n200")
    refused(raw, "badblocks", "0 1\n200 1")  # might have gone on with 00
    (raw.base / "list").write_text("".join(f"{sector} 1\n" for sector in range(1000, 2000, 2)))
    ran = program("dd", f"if={raw.base}/list", f"of={raw.control}/badblocks", "bs=1003")
    assert ran.status == 1
    assert "Invalid argument" in ran.err
    assert raw.badblocks == ""


def test_one_line_needs_no_newline_as_the_kernels_does_not(raw: Mounted) -> None:
    raw.write_control("badblocks", "208 1")
    assert raw.badblocks == "208 1\n"


def test_reading_in_pieces_shows_one_moment(raw: Mounted) -> None:
    raw.write_control("badblocks", "0 1\n100 1\n200 1\n")
    with open(raw.control / "badblocks", "rb", buffering=0) as file:
        first = file.read(5)
        raw.write_control("badblocks", "50 1\n")
        assert first + file.read(100) == b"0 1\n100 1\n200 1\n"
        file.seek(0)
        assert file.read(100) == b"0 1\n50 1\n100 1\n200 1\n"


def test_a_read_that_does_not_begin_at_the_start_shows_the_file_too(raw: Mounted) -> None:
    raw.write_control("badblocks", "0 1\n100 1\n")
    with open(raw.control / "badblocks", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 100, 4) == b"100 1\n"


def test_the_control_directory_is_the_owners_and_not_listed(raw: Mounted) -> None:
    assert os.listdir(raw.mountpoint) == ["device"]
    names = set(os.listdir(raw.control))
    assert {"badblocks", "events", "poison", "ranges"} <= names
    assert stat.S_IMODE(raw.control.stat().st_mode) == 0o700
    modes = {name: stat.S_IMODE((raw.control / name).stat().st_mode) for name in names}
    assert set(modes.values()) == {0o600, 0o400}
    assert (modes["badblocks"], modes["poison"], modes["ranges"]) == (0o600, 0o600, 0o400)


def test_control_files_cannot_be_renamed_removed_or_joined_by_others(raw: Mounted) -> None:
    badblocks = raw.control / "badblocks"
    names = sorted(os.listdir(raw.control))
    attempts = [
        lambda: os.rename(badblocks, raw.control / "poison"),
        lambda: os.rename(badblocks, raw.control / "other"),
        lambda: os.rename(raw.control, raw.mountpoint / "other"),
        lambda: os.rename(raw.device, raw.mountpoint / "other"),
        lambda: os.rename(raw.device, badblocks),
        lambda: os.unlink(badblocks),
        lambda: os.unlink(raw.device),
        lambda: os.rmdir(raw.control),
        lambda: os.link(raw.device, raw.mountpoint / "other"),
        lambda: os.symlink("device", raw.mountpoint / "other"),
        lambda: os.mkdir(raw.mountpoint / "other"),
        lambda: (raw.mountpoint / "other").write_bytes(b""),
        lambda: (raw.control / "other").write_bytes(b""),
        lambda: os.mkfifo(raw.control / "other"),
        lambda: os.truncate(badblocks, 10),
        lambda: badblocks.chmod(0o666),
        lambda: os.chown(badblocks, os.getuid(), os.getgid()),
        lambda: os.setxattr(raw.device, "user.x", b"x"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError):
            attempt()
    assert sorted(os.listdir(raw.control)) == names
    assert raw.badblocks == ""
    raw.write_control("badblocks", "8 8\n")
    raw.pwrite(NEW, PAGE)
    assert raw.pread(PAGE, PAGE) == NEW


def test_read_only_control_files_refuse_writing_even_from_root(raw: Mounted) -> None:
    for name in ("ranges", "events"):
        with pytest.raises(PermissionError):
            (raw.control / name).write_bytes(b"0 1\n")


def test_programs_say_that_names_cannot_be_made_or_removed(raw: Mounted) -> None:
    other = raw.mountpoint / "other"
    for words in (
        ("touch", other),
        ("mkdir", other),
        ("mkfifo", other),
        ("ln", raw.device, other),
        ("ln", "-s", "device", other),
        ("mv", raw.device, other),
        ("rm", "-f", raw.device),
        ("touch", raw.control / "other"),
        ("rm", "-f", raw.control / "badblocks"),
    ):
        ran = program(*words)
        assert ran.status == 1
        assert "Operation not permitted" in ran.err, ran
