"""Damage to a file system's own pages: poison and wrong bytes, in one copy and in both (R43)."""

import contextlib
import random
import stat
from itertools import pairwise

import pytest

from daxmend.errors import DaxmendError
from daxmend.events import CopyHealed, Event, MetadataHealed
from daxmend.extent import Extent
from daxmend.fs import FileSystem, Invariant, apply_repair, make_file_system, plan_repair
from daxmend.fs import checkpoint as checkpoint_module
from daxmend.fs.checkpoint import PAYLOAD, pages_for
from daxmend.fs.mirror import COPIES, Mirror
from daxmend.fs.superblock import read_superblock, superblock_mirror
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, MIB, PAGE, SECTOR
from fswalk import bad_owners, check_medium, check_owners, content, tree, walk

SIZE = 2 * MIB
FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755
LATENT = pytest.mark.parametrize("latent", [False, True], ids=["recorded", "latent"])
STRUCTURES = pytest.mark.parametrize("structure", ["superblock", "checkpoint", "journal"])

Content = dict[bytes, object]


class Image:
    """A device with a file system whose checkpoint and journal have several pages each."""

    def __init__(self, medium: MediumKind = MediumKind.PLAIN) -> None:
        self.device = PmemDevice(create_memory_pool(SIZE, medium))
        self.events: list[Event] = []
        self.device.events.subscribe(self.events.append)
        make_file_system(self.device)
        self.fs = FileSystem(self.device, commits_each=True)
        self._fill("old")
        self.fs.close()
        self.fs = FileSystem(self.device, commits_each=True)
        self._fill("new")
        self.content = read_everything(self.fs)

    def _fill(self, name: str) -> None:
        fs = self.fs
        directory = fs.make(fs.root, name.encode(), DIRECTORY, 1, 2)
        for number in range(12):
            ino = fs.make(directory, b"%d" % number, FILE, 3, 4)
            fs.write(ino, 0, b"%d" % number * 500)
            fs.setxattr(ino, b"user.x", bytes([number]) * 900)
        fs.make(directory, b"link", stat.S_IFLNK | 0o777, 0, 0, target=b"where" * 30)

    def stop(self) -> None:
        """As a crash does: nothing more is written, the journal holds what it holds."""
        self.fs.is_read_only = True
        self.fs.close()

    def open(self, *, writable: bool = True) -> FileSystem:
        self.events.clear()
        self.fs = FileSystem(self.device, commits_each=True, writable=writable)
        return self.fs

    def mirror(self, structure: str) -> Mirror:
        superblock, _ = read_superblock(self.device)
        if structure == "superblock":
            return superblock_mirror(self.device)
        if structure == "journal":
            return Mirror(self.device, tuple([extent] for extent in superblock.journal))  # type: ignore[arg-type]
        return Mirror(self.device, superblock.checkpoint)

    def used(self, structure: str) -> int:
        """How many pages of it hold something."""
        superblock, _ = read_superblock(self.device)
        ends = {
            "superblock": 1,
            "checkpoint": pages_for(superblock.checkpoint_length),
            "journal": -(-self.fs._journal._end // PAGE),
        }
        return ends[structure]

    def places(self, structure: str, page: int) -> list[Extent]:
        """Where a page of it lies, in copy 0 and in copy 1."""
        mirror = self.mirror(structure)
        within = Extent(page * PAGE, PAGE)
        return [next(mirror.device_extents(copy, within)) for copy in COPIES]

    def close(self) -> None:
        self.fs.close()
        self.device.close()


def read_everything(fs: FileSystem) -> Content:
    found: Content = {}
    for path, ino in tree(fs).items():
        node = fs.stat(ino)
        data = content(fs, ino) if stat.S_ISREG(node.mode) else b""
        target = fs.readlink(ino) if stat.S_ISLNK(node.mode) else b""
        xattrs = {name: fs.getxattr(ino, name) for name in fs.listxattr(ino)}
        found[path] = (node[:6], data, target, xattrs)
    return found


def read_what_can_be_read(fs: FileSystem) -> Content:
    """Like `read_everything`, without what raises; only errors of ours or of the system may."""
    found: Content = {}
    waiting = [(b"", fs.root)]
    while waiting:
        path, ino = waiting.pop()
        with contextlib.suppress(OSError, DaxmendError):
            node = fs.stat(ino)
            is_file = stat.S_ISREG(node.mode) and node.size < SIZE
            data = content(fs, ino) if is_file else b""
            target = fs.readlink(ino) if stat.S_ISLNK(node.mode) else b""
            xattrs = {name: fs.getxattr(ino, name) for name in fs.listxattr(ino)}
            found[path or b"/"] = (node[:6], data, target, xattrs)
            if stat.S_ISDIR(node.mode):
                waiting += [(path + b"/" + name, child) for name, child, _ in fs.names(ino)]
    return found


def tidy(fs: FileSystem) -> None:
    while fs.tidy():
        pass


def scrub(device: PmemDevice) -> None:
    for _ in device.scrub(Extent(0, device.size)):
        pass


def assert_healed(image: Image, bad: Extent) -> None:
    """The poison has gone, both copies read the same, and an event said so."""
    whole = Extent(0, image.device.size)
    assert list(image.device.poison(whole)) == []
    assert list(image.device.badblocks(whole)) == []
    for structure in ("superblock", "checkpoint", "journal"):
        mirror = image.mirror(structure)
        pages = Extent(0, image.used(structure) * PAGE)
        assert mirror.read(0, pages) == mirror.read(1, pages), structure
    healed = [event for event in image.events if isinstance(event, CopyHealed | MetadataHealed)]
    assert healed, "nobody was told"
    assert any(
        isinstance(event, CopyHealed) or event.extent.overlaps(bad.widened(PAGE))
        for event in healed
    )


# -- one copy ----------------------------------------------------------------------------------


def each_page(structure: str) -> list[int]:
    """All pages of a structure, also those that hold nothing."""
    image = Image()
    count = image.mirror(structure).length // PAGE
    image.close()
    return list(range(count))


@LATENT
@STRUCTURES
@pytest.mark.parametrize("copy", COPIES)
def test_poison_in_one_copy_is_healed_when_opened_r43(
    structure: str, copy: int, latent: bool
) -> None:
    for page in each_page(structure):
        image = Image()
        image.stop()
        bad = Extent(image.places(structure, page)[copy].offset + 5 * SECTOR, CACHELINE)
        if page < image.used(structure):  # where there is something to heal
            bad = Extent(bad.offset - 5 * SECTOR, CACHELINE)
        image.device.inject(bad, latent=latent)
        fs = image.open()
        assert not fs.is_read_only, fs.notices
        assert read_everything(fs) == image.content, page
        scrub(image.device)
        tidy(fs)
        assert_healed(image, bad)
        walk(fs)
        fs.close()
        check_medium(image.device)
        assert read_everything(image.open()) == image.content
        assert image.fs.notices == []
        image.close()


@LATENT
@STRUCTURES
@pytest.mark.parametrize("copies", [(0,), (1,), COPIES], ids=["first", "second", "both"])
def test_poison_is_healed_from_memory_while_in_use_r43(
    structure: str, copies: tuple[int, ...], latent: bool
) -> None:
    for page in each_page(structure):
        image = Image()
        places = [image.places(structure, page)[copy] for copy in copies]
        for place in places:
            image.device.inject(Extent(place.offset, SECTOR), latent=latent)
        scrub(image.device)
        image.events.clear()
        tidy(image.fs)
        for place in places:
            assert_healed(image, place)
        walk(image.fs)
        assert read_everything(image.fs) == image.content
        image.stop()
        check_medium(image.device)
        assert read_everything(image.open()) == image.content
        assert image.fs.notices == []
        image.close()


def test_one_bad_run_across_metadata_and_a_file_heals_only_the_metadata() -> None:
    """R43, R46: bad bytes of a file are its own, wherever the run began that they are a part of."""
    image = Image()
    fs = image.fs
    ino = fs.make(fs.root, b"big", FILE, 0, 0)
    with contextlib.suppress(OSError):
        while True:
            fs.write(ino, fs.stat(ino).size, b"f" * 64 * PAGE)
    image.content = read_everything(fs)
    owners = fs.owners(Extent(0, SIZE))
    seams = [
        (one, other)
        for one, other in pairwise(owners)
        if {one.kind, other.kind} == {"metadata", "file"}
    ]
    assert seams
    for one, other in seams:
        run = Extent.between(one.extent.end - SECTOR, other.extent.offset + SECTOR)
        image.device.inject(run)
    tidy(fs)
    damaged = bad_owners(fs)
    assert len(damaged) == len(seams)
    assert {owner.kind for owner in damaged} == {"file"}
    assert all(owner.extent.length == SECTOR for owner in damaged)
    walk(fs)
    image.close()


@pytest.mark.parametrize("kind", [MediumKind.REFUSES, MediumKind.LIES, MediumKind.CLEARS_PART])
@STRUCTURES
def test_a_medium_that_does_not_clear_costs_a_copy_and_nothing_else_r21(
    structure: str, kind: MediumKind
) -> None:
    for copy in COPIES:
        image = Image(kind)
        image.stop()
        image.device.inject(Extent(image.places(structure, 0)[copy].offset, SECTOR))
        fs = image.open()
        assert read_everything(fs) == image.content
        assert not fs.is_read_only, fs.notices
        tidy(fs)
        ino = fs.make(fs.root, b"still", FILE, 0, 0)
        assert fs.write(ino, 0, b"works" * 1000) == 5000
        for number in range(40):
            fs.setxattr(ino, b"user.x", bytes([number]) * 4000)
        walk(fs)
        image.content = read_everything(fs)
        fs.close()
        assert read_everything(image.open()) == image.content
        walk(image.fs)
        image.close()


@LATENT
@pytest.mark.parametrize("copies", [(0,), (1,), COPIES], ids=["first", "second", "both"])
@pytest.mark.parametrize("kind", [MediumKind.REFUSES, MediumKind.LIES, MediumKind.CLEARS_PART])
def test_a_journal_that_cannot_begin_is_out_of_use_once_repaired_r21_r45(
    kind: MediumKind, copies: tuple[int, ...], latent: bool
) -> None:
    image = Image(kind)
    image.fs.close()
    content = read_everything(image.open())
    image.stop()
    for copy in copies:
        image.device.inject(Extent(image.places("journal", 0)[copy].offset, SECTOR), latent=latent)
    plan = plan_repair(image.device)
    assert [finding.invariant for finding in plan.findings] == [Invariant.JOURNAL]
    apply_repair(image.device, plan)
    check_medium(image.device)
    assert not plan_repair(image.device).steps
    fs = image.open()
    assert read_everything(fs) == content
    assert not fs.is_read_only
    assert any("out of use" in notice for notice in fs.notices)
    ino = fs.make(fs.root, b"still", FILE, 0, 0)
    for number in range(40):
        fs.setxattr(ino, b"user.x", bytes([number]) * 4000)
        check_medium(image.device)
    content = read_everything(fs)
    image.stop()
    assert read_everything(image.open()) == content
    image.close()


def test_a_superblock_that_cannot_be_read_is_not_called_a_wrong_one_r44() -> None:
    image = Image(MediumKind.REFUSES)
    image.stop()
    image.device.inject(Extent(0, SECTOR))
    (finding,) = plan_repair(image.device).findings
    assert finding.text == "copy 0: superblock at offset 0: page is bad, expected readable"
    image.close()


def test_a_journal_comes_back_into_use_when_its_medium_heals() -> None:
    image = Image()
    image.device.allows_recovery = False
    image.device.inject(Extent(image.places("journal", 0)[1].offset, SECTOR))
    image.fs.make(image.fs.root, b"one", FILE, 0, 0)
    image.fs.checkpoint()
    assert not read_superblock(image.device)[0].has_journal
    image.content = read_everything(image.fs)
    image.stop()
    image.device.allows_recovery = True
    fs = image.open()
    assert fs.notices == []
    assert read_everything(fs) == image.content
    superblock, _ = read_superblock(image.device)
    assert superblock.has_journal
    fs.make(fs.root, b"two", FILE, 0, 0)
    assert read_superblock(image.device)[0] == superblock, "the journal took it"
    image.content = read_everything(fs)
    image.stop()
    assert read_everything(image.open()) == image.content
    image.close()


def test_a_mark_that_one_copy_does_not_take_is_in_the_other_adr_0006() -> None:
    """Else a search, once the superblocks are lost, goes for an old checkpoint."""
    for copy in COPIES:
        image = Image(MediumKind.REFUSES)
        image.device.inject(Extent(image.places("journal", 0)[copy].offset, SECTOR))
        for number in range(5):
            image.fs.make(image.fs.root, b"%d" % number, FILE, 0, 0)
        content = read_everything(image.fs)
        image.stop()
        for place in image.places("superblock", 0):
            image.device.inject(Extent(place.offset, SECTOR))
        assert read_everything(image.open()) == content
        image.close()


# -- both copies -------------------------------------------------------------------------------


@LATENT
@pytest.mark.parametrize("structure", ["checkpoint", "journal"])
def test_what_both_copies_have_lost_is_named_and_the_rest_is_readable(
    structure: str, latent: bool
) -> None:
    """R43, R44."""
    was_lost = 0
    intact = Image()
    for page in each_page(structure):
        image = Image()
        image.stop()
        for place in image.places(structure, page):
            image.device.inject(Extent(place.offset, SECTOR), latent=latent)
        fs = image.open()
        found = read_what_can_be_read(fs)
        if page < image_pages(structure):
            was_lost += 1
            assert found != image.content or structure == "checkpoint"
            assert any("lost" in notice for notice in fs.notices), page
            assert fs.is_read_only
            with pytest.raises(OSError, match="Read-only"):
                fs.make(fs.root, b"no", FILE, 0, 0)
            assert not fs.tidy()
            numbers = read_by_number(fs)
            was = read_by_number(intact.fs)
            assert all(data in (was[ino], b"") for ino, data in numbers.items()), "an old state"
            assert len(numbers) >= 6
            assert set(tree(fs).values()) == set(fs._state.inos()), (
                "the rest is where it can be read"
            )
        else:
            assert found == image.content
        with contextlib.suppress(OSError):
            fs.owners(Extent(0, SIZE))
        fs.close()
        image.close()
    intact.close()
    assert was_lost


def read_by_number(fs: FileSystem) -> dict[int, bytes]:
    """The content of every file that is there."""
    found = {}
    for ino in fs._state.inos():
        with contextlib.suppress(OSError, DaxmendError):
            if stat.S_ISREG(fs.stat(ino).mode):
                found[ino] = content(fs, ino)
    return found


def image_pages(structure: str) -> int:
    image = Image()
    try:
        return image.used(structure)
    finally:
        image.close()


@LATENT
def test_without_any_superblock_the_checkpoint_is_found_and_nothing_is_written(
    latent: bool,
) -> None:
    image = Image()
    image.stop()
    for place in image.places("superblock", 0):
        image.device.inject(Extent(place.offset, SECTOR), latent=latent)
    fs = image.open()
    assert read_everything(fs) == image.content
    assert fs.is_read_only
    assert any("superblock" in notice for notice in fs.notices)
    image.close()


def test_a_reader_takes_the_good_copy_and_heals_nothing() -> None:
    image = Image()
    image.stop()
    for structure in ("superblock", "checkpoint", "journal"):
        image.device.inject(Extent(image.places(structure, 0)[1].offset, SECTOR))
    before = list(image.device.badblocks(Extent(0, SIZE)))
    fs = image.open(writable=False)
    assert read_everything(fs) == image.content
    assert len(fs.notices) == 3
    assert all("the other copy is used" in notice for notice in fs.notices)
    fs.close()
    assert list(image.device.badblocks(Extent(0, SIZE))) == before
    assert not [event for event in image.events if isinstance(event, CopyHealed)]
    image.device.close()


# -- wrong bytes -------------------------------------------------------------------------------


def poke(device: PmemDevice, offset: int, data: bytes) -> None:
    device.pool.backing.store(device.pool.header.layout.data.offset + offset, data)


def peek(device: PmemDevice, extent: Extent) -> bytes:
    return device.pool.backing.load(
        device.pool.header.layout.data.offset + extent.offset, extent.length
    )


def open_and_use(image: Image) -> tuple[bool, Content]:
    """Whether it opened, and what could be read then; nothing but our errors may come out."""
    try:
        fs = image.open()
    except DaxmendError:
        return False, {}
    found = read_what_can_be_read(fs)
    with contextlib.suppress(OSError, DaxmendError):
        fs.owners(Extent(0, SIZE))
        for path in found:
            fs.path(fs.lookup(fs.root, path.strip(b"/")))
    with contextlib.suppress(OSError, DaxmendError):
        fs.unlink(fs.make(fs.root, b"x", DIRECTORY, 0, 0), b"y")
    with contextlib.suppress(OSError, DaxmendError):
        tidy(fs)
    with contextlib.suppress(OSError, DaxmendError):
        fs.close()
    return True, found


def test_wrong_bytes_anywhere_in_one_copy_change_nothing() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(250):
        image = Image()
        image.stop()
        copy = rng.choice(COPIES)
        structure = rng.choice(["superblock", "checkpoint", "journal", "journal"])
        page = rng.randrange(image.used(structure))
        place = image.places(structure, page)[copy]
        data = bytearray(peek(image.device, place))
        for _ in range(rng.choice([1, 1, 2, 30])):
            data[rng.randrange(PAGE)] ^= rng.randrange(1, 256)
        poke(image.device, place.offset, bytes(data))
        is_open, found = open_and_use(image)
        assert is_open
        assert found == image.content, (structure, page, copy)
        assert (
            read_what_can_be_read(image.open()).items()
            >= {path: node for path, node in image.content.items() if path != b"/"}.items()
        )
        assert image.fs.notices == []
        check_owners(image.fs)
        image.close()


def test_wrong_bytes_in_neighbouring_entries_of_both_copies_are_healed() -> None:
    """Each copy has what the other lacks, in one page."""
    image = Image()
    image.stop()
    places = image.places("journal", 0)
    first = peek(image.device, places[0])
    entries = [at for at in range(0, PAGE, 8) if first[at : at + 4] == b"DMFJ"]
    assert len(entries) > 3
    poke(image.device, places[0].offset + entries[0] + 10, b"\xff")
    poke(image.device, places[1].offset + entries[1] + 10, b"\xff")
    fs = image.open()
    assert read_everything(fs) == image.content
    fs.setxattr(fs.root, b"user.more", b"and it goes on")
    image.content = read_everything(fs)
    image.stop()
    fs = image.open()
    assert fs.notices == []
    assert read_everything(fs) == image.content
    image.close()


def test_wrong_bytes_in_one_copy_of_the_last_page_are_not_written_to_the_other() -> None:
    """The journal goes on in a page of which one copy was damaged."""
    image = Image()
    image.stop()
    last = image.used("journal") - 1
    place = image.places("journal", last)[0]
    page = peek(image.device, place)
    at = page.find(b"DMFJ")
    poke(image.device, place.offset + at + 10, b"\xff")
    fs = image.open()
    fs.setxattr(fs.root, b"user.more", b"in the same page")
    image.content = read_everything(fs)
    image.stop()
    assert read_everything(image.open()) == image.content
    assert image.fs.notices == []
    image.close()


def test_wrong_bytes_anywhere_raise_nothing_but_our_errors() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(300):
        image = Image()
        image.stop()
        for _ in range(rng.randrange(1, 4)):
            structure = rng.choice(["superblock", "checkpoint", "journal"])
            page = rng.randrange(image.mirror(structure).length // PAGE)
            at = rng.randrange(PAGE)
            wrong = rng.randbytes(rng.choice([1, 1, 8, 64]))[: PAGE - at]
            for place in image.places(structure, page):
                poke(image.device, place.offset + at, wrong)
            if not is_readable(image):
                break
        open_and_use(image)
        image.device.close()


def is_readable(image: Image) -> bool:
    try:
        read_superblock(image.device)
    except DaxmendError:
        return False
    return True


def test_wrong_bytes_with_right_checksums_raise_nothing_but_our_errors() -> None:
    """What a broken program might have written: records and changes that make no sense."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(300):
        image = Image()
        image.fs.close()  # all of it is in the checkpoint
        superblock, _ = read_superblock(image.device)
        page = rng.randrange(image.used("checkpoint"))
        places = image.places("checkpoint", page)
        payload = bytearray(peek(image.device, places[0])[PAGE - PAYLOAD :])
        used = min(superblock.checkpoint_length - page * PAYLOAD, PAYLOAD)
        first = int.from_bytes(peek(image.device, places[0])[4:6], "little")
        for _ in range(rng.choice([1, 2, 5])):
            at = rng.randrange(used)
            wrong = rng.choice([rng.randbytes(1), b"\0" * 8, b"\xff" * 8, rng.randbytes(8)])
            payload[at : at + len(wrong)] = wrong[: used - at]
        repacked = checkpoint_module._pack(
            bytes(payload[:used]), first, superblock.generation, page
        )
        for place in places:
            poke(image.device, place.offset, repacked)
        try:
            open_and_use(image)
        except (OSError, DaxmendError):
            raise
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        image.device.close()
