"""Passthrough on a shadow mount: the speed of clean files, and the truth about what it hides."""

import mmap
import os
import stat

import pytest
from rawmount import NEW, PAGE, Ran, User, cli, in_child, pattern, wait
from shadowmount import Shadowed

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="passthrough needs root"),
    pytest.mark.parametrize(("user", "open_mode"), [("root", "auto")], indirect=["user"]),
]


@pytest.fixture
def open_mode() -> str:
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < (6, 9):
        pytest.skip("FUSE passthrough came with Linux 6.9")
    return "auto"


def passing(shadow: Shadowed) -> str:
    return shadow.read_control("passthrough")


def test_a_clean_file_is_read_and_written_without_the_server(shadow: Shadowed) -> None:
    path = shadow.make("file")
    with open(path, "r+b", buffering=0) as file, open(path, "rb", buffering=0) as reader:
        assert passing(shadow) == "2 file:/file\n"
        os.pwrite(file.fileno(), b"NEW", PAGE)
        assert shadow.below("file").read_bytes()[PAGE : PAGE + 3] == b"NEW"
        shadow.below("file").open("r+b").write(b"below")  # no cache of its own
        assert reader.read(5) == b"below"
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[0:3] = b"map"
            assert reader.read(0) == b""
            assert shadow.below("file").read_bytes()[:5] == b"mapow"
        os.lseek(file.fileno(), 0, os.SEEK_END)
        file.write(b"tail")
        assert os.stat(path).st_size == 16 * PAGE + 4 == os.stat(shadow.below("file")).st_size
    assert passing(shadow) == ""


def test_a_reader_first_and_a_writer_then(shadow: Shadowed) -> None:
    path = shadow.make("file")
    with open(path, "rb", buffering=0) as reader:
        with open(path, "r+b", buffering=0) as writer:
            assert passing(shadow) == "2 file:/file\n"
            assert writer.write(NEW) == PAGE
        with open(path, "wb", buffering=0) as writer:
            writer.write(b"short")
        assert reader.read() == b"short" == shadow.below("file").read_bytes()


def test_injecting_into_a_file_in_passthrough_says_who_sees_it(shadow: Shadowed) -> None:
    path = shadow.make("file")
    with open(path, "r+b", buffering=0) as before, mmap.mmap(before.fileno(), 0) as mapped:
        ran = cli("inject", path, "--offset", 0, "--length", PAGE)
        assert ran.status == 0
        assert "/file is open in passthrough, 1 times: these opens" in ran.complaint
        assert "--arm PATTERN" in ran.complaint
        assert os.pread(before.fileno(), PAGE, 0) == pattern(0) == mapped[:PAGE]
        with open(path, "r+b", buffering=0) as after:
            with pytest.raises(OSError, match="Input/output"):
                os.pread(after.fileno(), PAGE, 0)
            with mmap.mmap(after.fileno(), 0) as also:  # as the message says
                assert also[:PAGE] == pattern(0)
            assert os.pwrite(after.fileno(), NEW, 0) == PAGE
            assert os.pread(after.fileno(), PAGE, 0) == NEW
        assert os.pread(before.fileno(), PAGE, 0) == NEW
    assert shadow.faults == ""


def test_when_it_is_closed_everybody_sees_the_fault(shadow: Shadowed) -> None:
    path = shadow.make("file")
    with open(path, "rb"):
        cli("inject", path, "--offset", 0, "--length", PAGE)
    assert shadow.inject("file", PAGE, PAGE).err == ""
    with shadow.mapped_file(path, "ro") as mapping:
        assert mapping.load(0) == (0, 2)
        assert passing(shadow) == ""
    shadow.write_at(path, NEW * 2, 0)
    with open(path, "rb"):
        assert passing(shadow) == "1 file:/file\n"


def test_an_armed_file_is_never_in_passthrough(unmounted_shadow: Shadowed) -> None:
    shadow = unmounted_shadow
    (shadow.source / "data").mkdir()
    shadow.must_mount("--arm", "*.db", "--arm", "/data/*")
    for name in ("a.db", "data/b", "data/c.db", "other"):
        path = shadow.make(name)
        with open(path, "rb") as file:
            assert passing(shadow) == ("1 file:/other\n" if name == "other" else "")
            if name != "other":
                assert file.read(8) == pattern(0)[:8]
                assert shadow.inject(name, 0, PAGE).err == ""
                with pytest.raises(OSError, match="Input/output"):
                    os.pread(file.fileno(), PAGE, 0)


def test_a_file_open_another_way_stays_so(unmounted_shadow: Shadowed) -> None:
    shadow = unmounted_shadow
    shadow.must_mount("--arm", "armed")
    path = shadow.make("armed")
    with open(path, "rb"):
        os.rename(path, shadow.path("other"))  # not armed any more
        with open(shadow.path("other"), "rb") as file:
            assert file.read(8) == pattern(0)[:8]
            assert passing(shadow) == ""
    with open(shadow.path("other"), "rb"):
        assert passing(shadow) == "1 file:/other\n"


def test_new_files_and_appends_pass_through(shadow: Shadowed) -> None:
    fd = os.open(shadow.path("new"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    assert passing(shadow) == "1 file:/new\n"
    os.write(fd, b"a")
    shadow.below("new").open("ab").write(b"b")
    os.write(fd, b"c")
    os.ftruncate(fd, 2)
    os.close(fd)
    assert shadow.below("new").read_bytes() == b"ab"


def test_suid_is_taken_away_as_below(shadow: Shadowed, user: User) -> None:
    path = shadow.make("program")
    os.chmod(path, 0o4777)
    with open(path, "rb"):
        assert passing(shadow) == ""

    def somebody() -> None:
        os.setgid(65533)
        os.setuid(65533)
        with open(path, "r+b", buffering=0) as file:
            file.write(b"evil")

    assert wait(in_child(somebody)) == 0
    assert stat.S_IMODE(os.stat(shadow.below("program")).st_mode) == 0o777


def test_a_shadow_of_a_shadow_shows_its_faults(shadow: Shadowed) -> None:
    second = shadow.base / "second"
    second.mkdir()
    shadow.make("file")
    assert cli("shadow", "--cache", 0, shadow.mountpoint, second) == Ran(0, "", "")
    try:
        shadow.inject("file", 0, PAGE)
        with pytest.raises(OSError, match="Input/output"):
            (second / "file").read_bytes()
        with open(second / "file", "r+b", buffering=0) as file:
            assert file.write(NEW) == PAGE
        assert shadow.faults == ""
    finally:
        assert cli("umount", second) == Ran(0, "", "")
