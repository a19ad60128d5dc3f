"""Salvage and repair of DAX files on a real kernel; the kernel's own tools judge what came out."""

from pathlib import Path

from damage import BAD, bad_ranges, blanked
from mountpoint import Mounted
from program import Daxmend


def assert_clean(mounted: Mounted) -> None:
    """The kernel's record and ndctl know of nothing bad."""
    assert mounted.place.bad_sectors() == []
    assert mounted.place.ndctl_bad_sectors() == []


def test_salvage_saves_all_but_the_bad_sectors(
    mounted: Mounted, damaged: Path, original: Path, tmp_path: Path, daxmend: Daxmend
) -> None:
    before = mounted.place.bad_sectors()
    out, mapfile = tmp_path / "saved", tmp_path / "map"
    ran = daxmend("salvage", damaged, "-o", out, "--mapfile", mapfile, "--json", status=4)
    assert ran.json["ranges"] == bad_ranges()
    assert out.read_bytes() == blanked(original.read_bytes())
    assert mounted.place.bad_sectors() == before  # nothing was written
    assert mapfile.read_text().count("  -\n") == len(bad_ranges())


def test_repair_from_a_copy_heals_in_place(
    mounted: Mounted, damaged: Path, original: Path, daxmend: Daxmend
) -> None:
    before = mounted.runs(damaged)
    assert len(mounted.place.ndctl_bad_sectors()) == len(BAD)
    daxmend("repair", damaged, "--from", original, "--apply")
    assert damaged.read_bytes() == original.read_bytes()
    assert mounted.runs(damaged) == before
    assert_clean(mounted)


def test_repair_by_zero_keeps_the_good_bytes_and_the_place(
    mounted: Mounted, damaged: Path, original: Path, daxmend: Daxmend
) -> None:
    before = mounted.runs(damaged)
    daxmend("repair", damaged, "--zero", "--apply")
    assert damaged.read_bytes() == blanked(original.read_bytes())
    assert mounted.runs(damaged) == before
    assert_clean(mounted)


def test_repair_by_punch_keeps_the_good_bytes(
    mounted: Mounted, damaged: Path, original: Path, daxmend: Daxmend
) -> None:
    """R35, the last resort: the file may move, and what was bad may stay bad as free space."""
    daxmend("repair", damaged, "--punch", "--apply")
    assert damaged.read_bytes() == blanked(original.read_bytes())
    assert daxmend("list", damaged, "--json").json["ranges"] == []


def test_a_disk_that_is_mounted_is_refused_also_below_dm(
    mounted: Mounted, damaged: Path, tmp_path: Path, daxmend: Daxmend
) -> None:
    """What a repair wrote to it would go past the file system; it can still be saved."""
    place, where = mounted.place, f"mounted at {mounted.directory}"
    before = place.bad_sectors()
    for how in (("--zero",), ("--zero", "--apply"), ("--undo",)):
        ran = daxmend("repair", place.path, *how, "--journal", tmp_path, status=8)
        assert where in ran.err
        assert "daxmend locate" in ran.err
        for member in place.members:
            ran = daxmend("repair", member.path, *how, "--journal", tmp_path, status=8)
            assert where in ran.err
            assert place.kind == "one" or "is below /dev/dm-" in ran.err
    assert place.bad_sectors() == before
    assert [path.name for path in tmp_path.iterdir()] == ["original"], "no journal"
