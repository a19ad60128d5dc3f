"""The ring's own parts, without a machine: what counts as passed, which kernel, which modules."""

import tarfile
from pathlib import Path

import kernels
import pytest
from initramfs import load_order
from kernels import has_both_kernels, parse_depends
from machine import CHECKED_OUT, write_start
from ring import SKIPPED, parse, refuse
from verdict import Verdict, read_verdict

JUNIT = '<testsuites><testsuite tests="{}" failures="{}" errors="{}" skipped="{}"/></testsuites>'


@pytest.mark.parametrize(
    ("counts", "status", "passed"),
    [
        ((3, 0, 0, 0), "0", True),
        ((3, 1, 0, 0), "1", False),
        ((3, 0, 1, 0), "1", False),
        ((3, 0, 0, 1), "0", False),
        ((0, 0, 0, 0), "5", False),
        ((3, 0, 0, 0), "3", False),
    ],
)
def test_a_ring_passes_only_if_all_its_tests_ran_and_passed(
    counts: tuple[int, ...], status: str, passed: bool, tmp_path: Path
) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT.format(*counts))
    (tmp_path / "status").write_text(f"{status}\n")
    assert read_verdict(tmp_path).passed == passed


@pytest.mark.parametrize("left", [(), ("status",), ("junit.xml",)])
def test_a_guest_that_left_no_result_has_failed(left: tuple[str, ...], tmp_path: Path) -> None:
    for name in left:
        (tmp_path / name).write_text("0" if name == "status" else JUNIT.format(1, 0, 0, 0))
    verdict = read_verdict(tmp_path)
    assert not verdict.passed
    assert str(verdict) == "FAILED: the guest ended before its tests did"


def test_a_verdict_says_its_counts() -> None:
    assert str(Verdict(tests=4, failed=1)) == "FAILED: 4 tests, 1 failed, 0 skipped"


def test_the_newest_kernel_is_what_the_meta_package_depends_on() -> None:
    text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n"
    assert parse_depends(text, "6.1") == "linux-image-6.1.0-56-amd64"
    assert parse_depends(text, "6.12") is None
    newer = "linux-image-6.12-amd64\n  Depends: linux-image-6.12.117+deb12-amd64\n"
    assert parse_depends(newer, "6.12") == "linux-image-6.12.117+deb12-amd64"
    assert parse_depends(newer, "6.1") is None


def test_debian_12_has_both_kernels_and_others_may_not() -> None:
    assert has_both_kernels('NAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n')
    assert not has_both_kernels('VERSION_ID="13"\nID=debian\n')
    assert not has_both_kernels("ID=ubuntu\nVERSION_ID=12\n")
    assert not has_both_kernels("")


@pytest.mark.parametrize(("release", "status"), [("ID=debian\nVERSION_ID=12", 1), ("", SKIPPED)])
def test_a_ring_that_cannot_run_fails_where_it_could_have(
    release: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "os-release"
    file.write_text(release)
    monkeypatch.setattr("ring.OS_RELEASE", file)
    assert refuse("no cpio") == status
    assert "THE KERNEL RING WAS NOT RUN: no cpio" in capsys.readouterr().err


def test_modules_are_loaded_after_what_they_need_and_once() -> None:
    text = "k/9p.ko.xz: k/net.ko.xz k/cache.ko.xz\nk/9p-virtio.ko.xz: k/net.ko.xz\nk/net.ko.xz:\n"
    assert load_order(text, ("9p", "9p_virtio", "built_in")) == [
        "k/cache.ko.xz",
        "k/net.ko.xz",
        "k/9p.ko.xz",
        "k/9p-virtio.ko.xz",
    ]


def test_pytests_arguments_are_passed_on() -> None:
    options, rest = parse(["--kernel", "6.12", "-k", "repair", "-x"])
    assert (options.kernel, rest) == (["6.12"], ["-k", "repair", "-x"])
    assert parse([])[0].kernel == list(kernels.SERIES)


def test_lists_that_are_old_are_renewed_once_before_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = kernels.cache_directory() / "linux-image-6.1.0-2-amd64"
    kept.mkdir(parents=True)
    known = ["linux-image-6.1.0-1-amd64", kept.name]
    asked: list[list[str]] = []

    def download(*command: str, cwd: str | None = None) -> None:
        raise kernels.NotFetchedError("404")

    monkeypatch.setattr(kernels, "newest_package", lambda series: known[len(asked)])
    monkeypatch.setattr(kernels, "_run", download)
    monkeypatch.setattr("subprocess.run", lambda command, **_: asked.append(command))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert kernels.get_kernel("6.1").package == kept.name
    assert asked == [["apt-get", "update", "-qq"]]


def test_the_guest_gets_the_checkout_as_it_is_at_the_start(tmp_path: Path) -> None:
    checkout, share = tmp_path / "checkout", tmp_path / "share"
    for directory in (share, *(checkout / name for name in CHECKED_OUT)):
        directory.mkdir(parents=True)
    (checkout / "src" / "module.py").write_text("whole")
    kernel = kernels.Kernel("6.1", "linux-image-6.1.0-1-amd64", tmp_path / "kernel")
    (kernel.root / "boot").mkdir(parents=True)
    (kernel.root / "boot" / "vmlinuz-6.1.0-1-amd64").touch()
    write_start(share, kernel, checkout, ["-k", "one or two"])
    (checkout / "src" / "module.py").write_text("hal")
    with tarfile.open(share / "checkout.tar") as archive:
        module = archive.extractfile("src/module.py")
        assert module is not None
        assert module.read() == b"whole"
    assert "exec /bin/sh /ring/start.sh -k 'one or two'" in (share / "start").read_text()


def test_the_cache_is_where_the_user_wants_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert kernels.cache_directory() == Path("/caches/daxmend/kernels")
