"""`daxmend shadow` and the commands on it: what they say, above all of what cannot be."""

import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
from rawmount import PAGE, Ran, User, cli, find_mount, in_child, shell, wait, wait_until
from shadowmount import Shadowed

DIAGONAL = True


def expect_refusal(shadow: Shadowed, source: Path, directory: Path, said: str) -> None:
    ran = cli("shadow", source, directory)
    assert ran.status == 16, ran
    assert said in ran.complaint
    assert find_mount(directory) is None


def test_directories_that_hold_each_other_are_refused(unmounted_shadow: Shadowed) -> None:
    shadow = unmounted_shadow
    inside = shadow.source / "inside"
    inside.mkdir()
    expect_refusal(shadow, shadow.source, inside, "the mount would show itself")
    expect_refusal(shadow, inside, shadow.source, "which would hide it")
    expect_refusal(shadow, shadow.source, shadow.source, "is the directory itself")
    link = shadow.base / "link"
    link.symlink_to(inside)
    expect_refusal(shadow, shadow.source, link, "the mount would show itself")
    (shadow.base / "file").touch()
    expect_refusal(shadow, shadow.base / "file", shadow.mountpoint, "is not a directory")
    missing = cli("shadow", shadow.base / "missing", shadow.mountpoint)
    assert missing.status == 8
    assert "missing: No such file or directory" in missing.complaint


def test_a_bind_mount_that_leads_into_itself_is_refused(
    unmounted_shadow: Shadowed, user: User
) -> None:
    shadow = unmounted_shadow
    if not user.is_root:
        return
    for name in ("source/inside", "outside/mnt"):
        (shadow.base / name).mkdir(parents=True)
    command = f"{shlex.quote(sys.executable)} -c 'from daxmend.cli import main; main()'"
    ran = shell(
        "exec unshare -m sh -c '"
        "mount --make-rshared / && mount --bind outside source/inside && "
        f'{command.replace(chr(39), chr(34))} shadow source outside/mnt; echo "status $?"; '
        "grep -c fuse.daxmend.shadow: /proc/self/mountinfo; umount source/inside'",
        cwd=shadow.base,
    )
    assert ran.out == "status 16\n0\n", ran
    assert "appears at" in ran.complaint


def test_what_may_not_be_read_is_refused(unmounted_shadow: Shadowed, user: User) -> None:
    if user.is_root:
        return
    secret = unmounted_shadow.base / "secret"
    secret.mkdir(0o000)
    expect_refusal(unmounted_shadow, secret, unmounted_shadow.mountpoint, "cannot be read by user")


def test_a_mount_in_use_is_not_taken_away(shadow: Shadowed) -> None:
    path = shadow.make("file")
    with open(path, "rb"):
        busy = shadow.umount()
        assert busy.status == 8
        assert "is in use" in busy.complaint
        assert path.read_bytes()
    wait_until(lambda: shadow.umount().status == 0, "it is free")  # the server is told later
    shadow.must_mount()


def test_a_directory_that_vanishes_is_an_empty_one(shadow: Shadowed) -> None:
    path = shadow.make("file")
    with open(path, "rb", buffering=0) as file:
        shutil.rmtree(shadow.source)
        assert os.listdir(shadow.mountpoint) == []
        assert file.read(PAGE)
        with pytest.raises(FileNotFoundError):
            shadow.path("new").write_bytes(b"")
        with pytest.raises(FileNotFoundError):
            path.read_bytes()
    status = cli("status", shadow.mountpoint)
    assert status.status == 0
    assert "gone" in status.out
    wait_until(lambda: shadow.umount().status == 0, "it is free")


def test_a_plan_with_errors_is_refused_with_line_and_reason(shadow: Shadowed) -> None:
    shadow.make("a.db")
    (shadow.source / "dir").mkdir()
    plan = shadow.base / "plan"
    good = "# all\n\n/a.db 0 512 once\n"
    for line, said in (
        ("/a.db 0 512 sometimes", "line 4: 'sometimes' is not one of"),
        ("/a.db 0 512", "line 4: '/a.db 0 512' is not 'PATTERN OFFSET LENGTH KIND'"),
        ("/b.db 0 512 once", "line 4: /b.db: No such file or directory"),
        ("/dir 0 512 once", "line 4: /dir is no regular file"),
        ("/a.db 1M 512 latent", "line 4: /a.db: "),
        ("*.txt 0 512 once", "line 4: *.txt matches no file that reaches to 512"),
        ("- 0 512 once", "is a whole directory: name a file"),
    ):
        plan.write_text(good + line + "\n")
        ran = cli("inject", shadow.mountpoint, "--plan", plan)
        assert ran.status == 16, ran
        assert said in ran.complaint
        assert shadow.faults == ""
    shadow.must_umount()
    plan.write_text(good + "/b.db 0 512 once\n")
    ran = shadow.mount("--plan", str(plan))
    assert ran.status == 16
    assert "fault plan, line 4: /b.db: No such file or directory" in ran.complaint
    assert find_mount(shadow.mountpoint) is None


def test_a_plan_of_many_files_is_saved_and_replayed(shadow: Shadowed) -> None:
    (shadow.source / "deep").mkdir()
    for name in ("a.db", "deep/b.db", "deep/with blank.db", "deep/ü[1]*.db", "other"):
        shadow.make(name)
    plan = shadow.base / "plan"
    plan.write_text("*.db 4K 512 until-written\n/deep/* 0 64 latent\nother 8K 4K once  # one\n")
    assert cli("inject", shadow.mountpoint, "--plan", plan).status == 0
    saved = shadow.faults
    assert len(saved.splitlines()) == 8
    located = json.loads(cli("locate", shadow.mountpoint, "--json").out)
    assert {each["path"] for each in located["ranges"]} == {
        "/a.db", "/deep/b.db", "/deep/with blank.db", "/deep/ü[1]*.db",
    }  # fmt: skip
    shadow.must_umount()
    (shadow.base / "saved").write_text(saved)
    assert shadow.mount("--plan", str(shadow.base / "saved")) == Ran(0, "", "")
    assert sorted(shadow.faults.splitlines()) == sorted(saved.splitlines())


def test_pages_in_thousands_of_files(shadow: Shadowed) -> None:
    for number in range(2000):
        (shadow.source / f"file{number}").write_bytes(bytes(512))
    plan = shadow.base / "plan"
    plan.write_text("".join(f"/file{number} 0 512 until-written\n" for number in range(2000)))
    assert cli("inject", shadow.mountpoint, "--plan", plan).status == 0
    assert cli("list", shadow.mountpoint).out.startswith(
        f"{shadow.mountpoint}: {2000 * 512} bytes are recorded as bad"
    )
    with pytest.raises(OSError, match="Input/output"):
        shadow.path("file1999").read_bytes()
    shadow.write_control("faults", "-* 0 1M\n")
    assert shadow.faults == ""


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("dir", "--offset", 0, "--length", 1), 16, "is a directory; name a file"),
        (("file", "--offset", 0, "--length", "1G"), 16, "beyond"),
        (("missing", "--offset", 0, "--length", 1), 8, "No such file"),
        (("fifo", "--offset", 0, "--length", 1), 16, "is no regular file"),
        ((".", "--offset", 0, "--length", 1), 16, "is a whole directory: name a file"),
    ],
)
def test_inject_says_what_it_cannot_do(
    shadow: Shadowed, words: tuple[object, ...], status: int, said: str
) -> None:
    shadow.make("file")
    (shadow.source / "dir").mkdir()
    os.mkfifo(shadow.source / "fifo")
    ran = cli("inject", shadow.mountpoint / str(words[0]), *words[1:])
    assert (ran.status, said in ran.complaint) == (status, True), ran


def test_exit_statuses_tell_clean_from_bad(shadow: Shadowed) -> None:
    path = shadow.make("file")
    for target in (shadow.mountpoint, path):
        for command in ("list", "locate", "status"):
            assert cli(command, target).status == 0
    shadow.inject("file", 0, 512)
    for target in (shadow.mountpoint, path):
        for command in ("list", "locate", "status"):
            assert cli(command, target).status == 4
    refused = cli("check", shadow.mountpoint)
    assert refused.status == 16
    assert "there is no device below it" in refused.complaint


def test_a_killed_server_leaves_a_mount_that_is_cleaned_up(shadow: Shadowed) -> None:
    pid = json.loads(shadow.read_control("status"))["pid"]
    process = os.pidfd_open(pid)
    signal.pidfd_send_signal(process, signal.SIGKILL)
    os.close(process)
    wait_until(lambda: cli("list", shadow.mountpoint).status == 2, "it is dead")
    assert shadow.mount() == Ran(0, "", "")
    os.kill(json.loads(shadow.read_control("status"))["pid"], signal.SIGTERM)
    wait_until(lambda: find_mount(shadow.mountpoint) is None, "SIGTERM unmounts")


def test_files_beyond_the_limit_of_descriptors(unmounted_shadow: Shadowed) -> None:
    """The kernel is asked to forget names, the oldest first."""
    shadow = unmounted_shadow
    for number in range(1500):
        (shadow.source / f"file{number}").write_bytes(b"%d" % number)

    def few() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (600, 600))
        shadow.must_mount()

    assert wait(in_child(few)) == 0
    for _ in range(2):
        for number in range(1500):
            assert shadow.path(f"file{number}").read_bytes() == b"%d" % number
    assert json.loads(shadow.read_control("status"))["known"] < 600


def test_the_control_directory_stays_as_it_is(shadow: Shadowed) -> None:
    assert ".daxmend" not in os.listdir(shadow.mountpoint)
    assert set(os.listdir(shadow.control)) == {
        "faults", "ranges", "passthrough", "scrub", "status", "metrics", "history", "events",
    }  # fmt: skip
    for attempt in (
        lambda: (shadow.control / "new").write_text(""),
        lambda: os.unlink(shadow.control / "faults"),
        lambda: os.rename(shadow.control, shadow.path("x")),
        lambda: os.mkdir(shadow.control / "x"),
        lambda: os.chmod(shadow.control / "faults", 0o777),
    ):
        with pytest.raises(PermissionError):
            attempt()
    assert shell("echo nonsense > .daxmend/faults", cwd=shadow.mountpoint).status != 0
