"""Repair is proven: damage is planted, found, planned, mended; then all is well, and stays so.

The damage goes into the state in memory, and from there through a checkpoint onto the medium.
"""

import random
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from daxmend.extent import Extent
from daxmend.fs import (
    FIRST_INO,
    ROOT_INO,
    FileSystem,
    Invariant,
    apply_repair,
    check,
    make_file_system,
    plan_repair,
)
from daxmend.fs.extentmap import ExtentMap, Run
from daxmend.fs.inode import MAX_SIZE, Attributes, Inode
from daxmend.media.pool import create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB, PAGE
from fswalk import check_medium, check_owners, content, tree, walk

DATA = b"daxmend " * 2 * PAGE


class Planted(NamedTuple):
    """A file system in which there is one of everything, and its inodes by name."""

    device: PmemDevice
    fs: FileSystem
    inos: dict[str, int]

    def inode(self, name: str) -> Inode:
        """The inode, about to be changed."""
        inode = self.fs._state.inode(self.inos[name])
        inode.record = None
        return inode

    def set(self, name: str, **attributes: int) -> None:
        inode = self.inode(name)
        inode.attributes = inode.attributes._replace(**attributes)

    def set_runs(self, name: str, *runs: Run) -> None:
        """The mapping of a file, whatever that does to others."""
        inode = self.inode(name)
        inode.map = ExtentMap()
        inode.map._splice(0, 0, list(runs))

    def run(self, name: str) -> Run:
        run = self.inode(name).map.find(0)
        assert run is not None
        return run

    def name(self, directory: str, name: bytes, ino: int, kind: int) -> None:
        self.inode(directory).set_name(name, ino, kind)

    def unname(self, directory: str, name: bytes) -> None:
        self.inode(directory).drop_name(name)

    def remove(self, name: str) -> None:
        """The inode is gone, and its pages are nobody's; names stay."""
        inode = self.inode(name)
        inode.map = ExtentMap()
        del self.fs._state.live[inode.ino]


@pytest.fixture
def planted() -> Iterator[Planted]:
    device = PmemDevice(create_memory_pool(4 * MIB))
    make_file_system(device)
    fs = FileSystem(device, commits_each=True)
    root = fs.root
    inos = {"root": root}
    for directory in ("dir", "other"):
        inos[directory] = fs.make(root, directory.encode(), stat.S_IFDIR | 0o755, 1, 1)
    inos["sub"] = fs.make(inos["dir"], b"sub", stat.S_IFDIR | 0o755, 1, 1)
    for name, parent in (("file", root), ("twin", root), ("inner", inos["dir"]), ("low", "sub")):
        where = inos[parent] if isinstance(parent, str) else parent
        inos[name] = fs.make(where, name.encode(), stat.S_IFREG | 0o644, 1, 1)
        fs.write(inos[name], 0, DATA)
    inos["link"] = fs.make(root, b"link", stat.S_IFLNK | 0o777, 1, 1, target=b"file")
    yield Planted(device, fs, inos)
    device.close()


def plant(planted: Planted, damage: Callable[[Planted], None]) -> None:
    """Put the damage on the medium."""
    damage(planted)
    planted.fs._write_checkpoint()
    planted.fs._pending.clear()
    planted.fs._dirty.clear()
    planted.fs.is_read_only = True
    planted.fs.close()


def medium(device: PmemDevice) -> bytes:
    """What the medium holds."""
    return bytes(device.recovery_read(Extent(0, device.size)).data)


DAMAGE: dict[str, tuple[Invariant, Callable[[Planted], None]]] = {
    "a run beyond the device": (
        Invariant.RECORD,
        lambda p: p.set_runs("file", Run(0, 4 * MIB // PAGE - 1, 2, True)),
    ),
    "a run of no pages": (
        Invariant.RECORD,
        lambda p: p.set_runs("file", p.run("file"), Run(9, 500, 0, True)),
    ),
    "runs that overlap in the file": (
        Invariant.RECORD,
        lambda p: p.set_runs("file", p.run("file"), Run(1, 600, 2, True)),
    ),
    "runs that descend": (
        Invariant.RECORD,
        lambda p: p.set_runs("file", Run(9, 600, 2, True), p.run("file")),
    ),
    "a page of two files": (
        Invariant.PLACE,
        lambda p: p.set_runs("twin", p.run("file")),
    ),
    "pages that overlap in part": (
        Invariant.PLACE,
        lambda p: p.set_runs("twin", Run(0, p.run("file").place + 1, 4, True)),
    ),
    "a page twice in one file": (
        Invariant.PLACE,
        lambda p: p.set_runs("file", p.run("file"), p.run("file")._replace(pgoff=100)),
    ),
    "a file on the superblock": (
        Invariant.PLACE,
        lambda p: p.set_runs("file", Run(0, 0, 1, True)),
    ),
    "a file on the journal": (
        Invariant.PLACE,
        lambda p: p.set_runs("file", Run(0, 2, 1, False)),
    ),
    "no root": (Invariant.ROOT, lambda p: p.remove("root")),
    "a root that is a file": (
        Invariant.ROOT,
        lambda p: p.set("root", mode=stat.S_IFREG | 0o644),
    ),
    "a root below another": (
        Invariant.ROOT,
        lambda p: p.set("root", parent=p.inos["dir"]),
    ),
    "a name for nothing": (
        Invariant.NAME,
        lambda p: p.name("dir", b"ghost", 9999, stat.S_IFREG),
    ),
    "a file that is gone": (Invariant.NAME, lambda p: p.remove("file")),
    "a name of another type": (
        Invariant.NAME,
        lambda p: p.name("root", b"file", p.inos["file"], stat.S_IFLNK),
    ),
    "a directory called a file": (
        Invariant.NAME,
        lambda p: p.name("root", b"dir", p.inos["dir"], stat.S_IFREG),
    ),
    "a name with a slash": (
        Invariant.NAME,
        lambda p: p.name("dir", b"a/b", p.inos["inner"], stat.S_IFREG),
    ),
    "the name of two dots": (
        Invariant.NAME,
        lambda p: p.name("dir", b"..", p.inos["inner"], stat.S_IFREG),
    ),
    "a name of the root": (
        Invariant.NAME,
        lambda p: (p.name("root", b"self", ROOT_INO, stat.S_IFDIR), p.set("root", nlink=5))[0],
    ),
    "names in a file": (
        Invariant.NAME,
        lambda p: p.name("file", b"x", p.inos["twin"], stat.S_IFREG),
    ),
    "a file with too many links": (Invariant.LINKS, lambda p: p.set("file", nlink=7)),
    "a file with a name and no links": (Invariant.LINKS, lambda p: p.set("file", nlink=0)),
    "a directory with too few links": (Invariant.LINKS, lambda p: p.set("dir", nlink=2)),
    "a directory with two names": (
        Invariant.LINKS,
        lambda p: p.name("other", b"again", p.inos["dir"], stat.S_IFDIR),
    ),
    "a directory twice in another": (
        Invariant.LINKS,
        lambda p: p.name("root", b"again", p.inos["dir"], stat.S_IFDIR),
    ),
    "a directory with the wrong parent": (
        Invariant.PARENT,
        lambda p: p.set("sub", parent=p.inos["other"]),
    ),
    "a file without a name": (Invariant.REACHED, lambda p: p.unname("root", b"file")),
    "a tree without a name": (Invariant.REACHED, lambda p: p.unname("root", b"dir")),
    "a number that was not given": (
        Invariant.NUMBER,
        lambda p: setattr(p.fs._state, "next_ino", FIRST_INO),
    ),
    "a file larger than can be": (Invariant.SIZE, lambda p: p.set("file", size=MAX_SIZE + 1)),
    "a link of another length": (Invariant.SIZE, lambda p: p.set("link", size=99)),
}


def make_ring(p: Planted) -> None:
    """`dir` lies in `sub`, which lies in `dir`; nothing leads there."""
    p.unname("root", b"dir")
    p.set("dir", parent=p.inos["sub"])
    p.name("sub", b"dir", p.inos["dir"], stat.S_IFDIR)
    p.set("sub", nlink=3)
    p.set("root", nlink=3)


def make_low_number(p: Planted) -> None:
    """A file whose number is the mount's own."""
    attributes = Attributes(7, stat.S_IFREG | 0o644, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    p.fs._state.add_inode(Inode(attributes))
    p.name("root", b"seven", 7, stat.S_IFREG)


def cut_record(p: Planted) -> None:
    """The record of a file has a body that is none."""
    record = bytearray(p.inode("file").pack())
    record[92:96] = (200).to_bytes(4, "little")  # the length of a link's target
    p.inode("file").record = bytes(record)


DAMAGE["a ring of directories"] = (Invariant.REACHED, make_ring)
DAMAGE["a number below the first"] = (Invariant.NUMBER, make_low_number)
DAMAGE["a record that is not whole"] = (Invariant.RECORD, cut_record)


def test_every_invariant_of_the_tree_has_a_planted_damage() -> None:
    planted = {invariant for invariant, _ in DAMAGE.values()}
    media = {Invariant.SUPERBLOCK, Invariant.CHECKPOINT, Invariant.JOURNAL}
    assert planted == set(Invariant) - media


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_planned_mended_and_gone(planted: Planted, what: str) -> None:
    invariant, damage = DAMAGE[what]
    plant(planted, damage)
    device = planted.device
    findings = list(check(device))
    assert invariant in {finding.invariant for finding in findings}, findings
    before = medium(device)
    plan = plan_repair(device)
    assert plan.findings == findings
    assert any(step.startswith(f"{invariant}: ") for step in plan.steps), plan.steps
    assert medium(device) == before, "a plan changes nothing"
    apply_repair(device, plan)
    check_medium(device)
    again = plan_repair(device)
    assert (again.findings, again.steps) == ([], [])
    fs = FileSystem(device, commits_each=True)
    assert fs.notices == []
    assert not fs.is_read_only
    walk(fs)
    check_owners(fs)
    fs.close()
    check_medium(device)


def mended(planted: Planted, damage: Callable[[Planted], None]) -> FileSystem:
    """The file system after damage and repair."""
    plant(planted, damage)
    apply_repair(planted.device, plan_repair(planted.device))
    return FileSystem(planted.device, commits_each=True)


def test_a_file_system_that_is_whole_is_left_as_it_is(planted: Planted) -> None:
    plant(planted, lambda _: None)
    before = medium(planted.device)
    plan = plan_repair(planted.device)
    assert (plan.findings, plan.steps) == ([], [])
    apply_repair(planted.device, plan)
    assert medium(planted.device) == before


@pytest.mark.parametrize(
    "what",
    [
        "a file with too many links",
        "a file with a name and no links",
        "a name of another type",
        "a directory with the wrong parent",
        "a directory with two names",
        "no root",
        "a ring of directories",
        "a tree without a name",
        "a number that was not given",
    ],
)
def test_no_byte_of_a_file_is_lost_where_only_the_tree_was_damaged(
    planted: Planted, what: str
) -> None:
    fs = mended(planted, DAMAGE[what][1])
    named = set(tree(fs).values())
    for name in ("file", "twin", "inner", "low"):
        assert planted.inos[name] in named
        assert content(fs, planted.inos[name]) == DATA
    fs.close()


def test_what_has_lost_its_name_is_in_lost_and_found_with_what_is_below_it(
    planted: Planted,
) -> None:
    def damage(p: Planted) -> None:
        p.unname("root", b"file")
        p.unname("root", b"dir")

    fs = mended(planted, damage)
    paths = tree(fs)
    inos = planted.inos
    assert paths[b"/lost+found/#%d" % inos["file"]] == inos["file"]
    home = b"/lost+found/#%d" % inos["dir"]
    assert paths[home + b"/inner"] == inos["inner"]
    assert paths[home + b"/sub/low"] == inos["low"]
    fs.close()


def test_a_ring_is_cut_where_it_is_a_ring_and_keeps_what_hangs_on_it(planted: Planted) -> None:
    fs = mended(planted, make_ring)
    paths = tree(fs)
    inos = planted.inos
    assert paths.keys() > {b"/lost+found", b"/file", b"/twin", b"/other", b"/link"}
    inside = [path for path in paths if path.startswith(b"/lost+found/")]
    assert len(inside) == 4  # dir, sub, inner, low: each once
    assert fs.stat(inos["inner"]).nlink == fs.stat(inos["low"]).nlink == 1
    fs.close()


def test_lost_and_found_is_used_again_and_no_name_in_it_is_overwritten(planted: Planted) -> None:
    def damage(p: Planted) -> None:
        home = p.fs.make(ROOT_INO, b"lost+found", stat.S_IFDIR | 0o700, 0, 0)
        p.inos["home"] = home
        number = b"#%d" % p.inos["file"]
        p.fs.write(p.fs.make(home, number, stat.S_IFREG | 0o600, 0, 0), 0, b"was here")
        p.unname("root", b"file")

    fs = mended(planted, damage)
    paths = tree(fs)
    name = b"/lost+found/#%d" % planted.inos["file"]
    assert content(fs, paths[name]) == b"was here"
    assert paths[name + b"~"] == planted.inos["file"]
    assert paths[b"/lost+found"] == planted.inos["home"]
    fs.close()


def test_of_two_files_with_the_same_page_one_keeps_it(planted: Planted) -> None:
    fs = mended(planted, DAMAGE["a page of two files"][1])
    assert content(fs, planted.inos["file"]) == DATA
    assert list(fs.extents(planted.inos["twin"])) == []
    fs.close()


def test_the_other_runs_of_a_file_with_an_impossible_one_are_kept(planted: Planted) -> None:
    fs = mended(planted, DAMAGE["a run of no pages"][1])
    assert content(fs, planted.inos["file"]) == DATA
    fs.close()


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("structure", ["superblock", "checkpoint", "journal"])
def test_a_damaged_copy_is_a_finding_and_rewritten(
    planted: Planted, structure: str, copy: int
) -> None:
    """F1–F3: metadata goes bad on the medium (R43)."""
    fs, device = planted.fs, planted.device
    place = {
        "superblock": Extent((0, device.size - PAGE)[copy], PAGE),
        "checkpoint": fs._checkpoint.copies[copy][0],
        "journal": fs._journal.mirror.copies[copy][0],
    }[structure]
    device.set_holder(None)
    device.inject(Extent(place.offset, PAGE))
    findings = list(check(device))
    assert {finding.is_healed for finding in findings} == {True}
    plan = plan_repair(device)
    assert any(structure in step for step in plan.steps)
    apply_repair(device, plan)
    check_medium(device)
    assert plan_repair(device).steps == []


def test_a_page_of_the_checkpoint_that_both_copies_have_lost_costs_its_inodes_alone(
    planted: Planted,
) -> None:
    """F2: what they held by name goes to lost+found."""
    fs, device = planted.fs, planted.device
    for number in range(100):
        fs.make(planted.inos["other"], b"%d" % number + b"x" * 100, stat.S_IFREG | 0o644, 1, 1)
    fs.close()
    fs = FileSystem(device, commits_each=True)
    assert fs._superblock.checkpoint_length > 3 * PAGE
    places = [copies[0] for copies in fs._checkpoint.copies]
    fs.close()
    for place in places:
        device.inject(Extent(place.offset + PAGE, PAGE))
    findings = list(check(device))
    assert Invariant.CHECKPOINT in {finding.invariant for finding in findings}
    apply_repair(device, plan_repair(device))
    check_medium(device)
    assert plan_repair(device).steps == []
    fs = FileSystem(device, commits_each=True)
    assert not fs.is_read_only
    walk(fs)
    assert len(fs._state.inos()) > 20
    fs.close()


def test_entries_that_both_journals_have_lost_cost_what_came_after(planted: Planted) -> None:
    """F3."""
    fs, device = planted.fs, planted.device
    device.set_holder(None)
    for copies in fs._journal.mirror.copies:
        device.inject(Extent(copies[0].offset, PAGE))
    findings = list(check(device))
    assert Invariant.JOURNAL in {finding.invariant for finding in findings}
    apply_repair(device, plan_repair(device))
    check_medium(device)
    assert plan_repair(device).steps == []
    fs = FileSystem(device, commits_each=True)
    assert not fs.is_read_only
    walk(fs)
    fs.close()


def test_changes_of_a_lost_inode_make_no_new_one_and_others_keep_theirs(planted: Planted) -> None:
    """R43: what is lost must not read as zeros; the root is lost, too, and all else is shown."""
    fs, device, inos = planted.fs, planted.device, planted.inos
    for number in range(12):
        fs.setxattr(inos["low"], b"user.%d" % number, b"x" * 1000)  # the last one to be packed
    fs.close()
    fs = FileSystem(device, commits_each=True)
    stream = b"".join(fs._state.records())
    second = {ino for ino in fs._state.inos() if stream.find(fs._state.inode(ino).pack()) >= 4064}
    fs.set_attributes(inos["file"], mode=0o600)
    fs.setxattr(inos["twin"], b"user.of", b"a lost file")
    late = fs.make(inos["dir"], b"late", stat.S_IFREG | 0o644, 0, 0)
    fs.write(late, 0, b"late")
    fs.setxattr(fs.root, b"user.of", b"the root")
    fs.is_read_only = True
    fs.close()
    for copies in fs._checkpoint.copies:
        device.inject(Extent(copies[0].offset, PAGE))
    fs = FileSystem(device, commits_each=True)
    assert fs.is_read_only
    shown = set(tree(fs).values())
    assert shown >= second
    for name in ("file", "twin", "inner"):
        assert inos[name] not in shown or content(fs, inos[name]) == DATA
    assert late in shown
    assert content(fs, late) == b"late"
    fs.close()
    apply_repair(device, plan_repair(device))
    check_medium(device)


def test_what_a_repair_would_take_from_files_is_not_shown_as_zeros(planted: Planted) -> None:
    """Both journals are lost, and two files have one page: both are shown as they were found."""
    plant(planted, DAMAGE["a page of two files"][1])
    for copies in planted.fs._journal.mirror.copies:
        planted.device.inject(Extent(copies[0].offset, PAGE))
    fs = FileSystem(planted.device, commits_each=True)
    assert fs.is_read_only
    assert content(fs, planted.inos["file"]) == content(fs, planted.inos["twin"]) == DATA
    fs.close()


def _damage_at_random(p: Planted, rng: random.Random) -> None:
    """One to six things of any kind, anywhere."""
    names = list(p.inos)
    numbers = [*p.inos.values(), 7, 5000]
    for _ in range(rng.randint(1, 6)):
        inode = p.inode(rng.choice(names))
        kind = rng.choice([stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK])
        match rng.randrange(7):
            case 0:
                inode.set_name(rng.choice([b"a", b"b", b"..", b"x/y"]), rng.choice(numbers), kind)
            case 1 if inode.names:
                inode.drop_name(rng.choice(list(inode.names)))
            case 2:
                inode.attributes = inode.attributes._replace(nlink=rng.randrange(5))
            case 3:
                inode.attributes = inode.attributes._replace(parent=rng.choice(numbers))
            case 4:
                inode.attributes = inode.attributes._replace(mode=kind | 0o644)
            case 5:
                place = rng.randrange(4 * MIB // PAGE + 2)
                run = Run(rng.randrange(20), place, rng.randrange(4), rng.random() < 0.5)
                inode.map._splice(len(inode.map), len(inode.map), [run])
            case _:
                inode.attributes = inode.attributes._replace(size=rng.randrange(1 << 64))


@pytest.mark.parametrize("seed", range(100))
def test_damage_of_many_kinds_at_once_is_mended_by_one_repair(planted: Planted, seed: int) -> None:
    plant(planted, lambda p: _damage_at_random(p, random.Random(seed)))
    device = planted.device
    plan = plan_repair(device)
    assert bool(plan.steps) == bool(plan.findings)
    apply_repair(device, plan)
    check_medium(device)
    assert plan_repair(device).steps == []
    fs = FileSystem(device, commits_each=True)
    assert not fs.is_read_only
    walk(fs)
    check_owners(fs)
    fs.close()
