"""`daxmend --version`: each feature is tried, and "no" and "nobody knows" are two answers."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from daxmend import _native, fuse
from daxmend.cli import run, version
from daxmend.cli.version import Feature
from daxmend.errors import UnknownStateError, UnsupportedError
from daxmend.fuse import Kernel, Offer, protocol
from daxmend.host.ndbus import Region
from daxmend.host.unknown import Unknown
from daxmend.host.zeroing import ZeroVerb
from daxmend.media.exposure import Exposure, Mechanism

Probe = Callable[[], list[Feature]]
EVERYTHING = protocol.FUSE_DIRECT_IO_ALLOW_MMAP | protocol.FUSE_PASSTHROUGH


def answers(probe: Probe) -> dict[str, bool | None]:
    return {feature.name: feature.is_there for feature in probe()}


def test_the_first_line_is_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    first, second, *features = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"daxmend \d+\.\d+\.\d+", first)
    assert os.uname().release in second
    assert all(re.match(r"  \S.{21} (yes|no|unknown)\b", line) for line in features)
    assert len(features) > 10


def test_the_document_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kernel"] == f"Linux {os.uname().release}"
    assert {type(feature["is_there"]) for feature in document["features"]} <= {bool, type(None)}


@pytest.mark.parametrize("words", [["--json"], ["--json", "list", "x"]])
def test_json_alone_is_a_mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 16
    assert "--json goes with --version" in capsys.readouterr().err


def test_what_the_kernel_offers_is_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    offer = Offer(45, Kernel(40, EVERYTHING))
    monkeypatch.setattr(fuse, "probe_kernel", lambda: offer)
    assert set(answers(version._probe_fuse).values()) == {True}
    old = Offer(31, Kernel(31, 0))
    monkeypatch.setattr(fuse, "probe_kernel", lambda: old)
    assert answers(version._probe_fuse) == {
        "FUSE": True,
        "mapped direct I/O": False,
        "passthrough": False,
    }


def test_passthrough_is_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    offer = Offer(45, Kernel(40, EVERYTHING))
    monkeypatch.setattr(fuse, "probe_kernel", lambda: offer)
    assert version._probe_fuse()[2] == ("passthrough", False, "the kernel can; root may")


def test_without_fuse_all_of_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Offer:
        raise UnsupportedError("/dev/fuse is missing: load it")

    monkeypatch.setattr(fuse, "probe_kernel", refuse)
    assert set(answers(version._probe_fuse).values()) == {False}


def test_what_cannot_be_asked_of_fuse_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse, "probe_kernel", lambda: Unknown("no namespace can be made"))
    there, *rest = version._probe_fuse()
    assert there.is_there
    assert {(feature.is_there, feature.says) for feature in rest} == {
        (None, "no namespace can be made")
    }


def test_memory_is_told_as_exposures_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, mechanism: Mechanism, **__: object) -> Exposure:
        raise UnsupportedError(f"{mechanism} does not work on this file")

    def cannot_tell(_: object) -> list[object]:
        raise UnknownStateError("this kernel cannot tell")

    def forbid(_: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(version, "Exposure", refuse)
    monkeypatch.setattr(version, "probe", cannot_tell)
    monkeypatch.setattr(_native, "userfaultfd", forbid)
    found = version._probe_memory()
    assert {feature.is_there for feature in found} == {False}
    assert found[0].says == "Operation not permitted"


def test_what_cannot_be_tried_on_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> list[object]:
        raise UnsupportedError("no mapping is left")

    monkeypatch.setattr(version, "probe", refuse)
    assert version._probe_memory()[-1] == ("MADV_POPULATE_READ", None, "no mapping is left")

    def forbid(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbid)
    assert set(answers(version._probe_memory).values()) == {None}


def test_memory_that_faults_here_is_told() -> None:
    """Against the mechanisms themselves, on this kernel."""
    fd = os.memfd_create("test")
    os.truncate(fd, 4096)
    found = answers(version._probe_memory)
    for mechanism, name in (
        (Mechanism.UFFD_POISON, "UFFDIO_POISON"),
        (Mechanism.GUARD_REGION, "MADV_GUARD_INSTALL"),
    ):
        try:
            with Exposure(fd, 0, 4096, mechanism=mechanism) as exposure:
                exposure.make_faulting(0, 4096)
            works = True
        except UnsupportedError:
            works = False
        assert found[name] == works
    os.close(fd)


def test_file_systems_are_asked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answers(version._probe_file_systems)
    assert (found["FIEMAP"], found["GETFSMAP"]) == (None, None)
    assert found[ZeroVerb.WRITE_ZEROES] is not None
    monkeypatch.setattr(version, "probe_verbs", lambda _: Unknown("no file can be made"))
    assert answers(version._probe_file_systems)[ZeroVerb.WRITE_ZEROES] is None


def test_each_region_of_the_bus_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "iter_regions", lambda: iter(()))
    assert answers(version._probe_bus) == {"nd bus": False}
    regions = [Region("region0", 1 << 30, Path("/")), Unknown("region1 tells no size")]
    monkeypatch.setattr(version, "iter_regions", lambda: iter(regions))
    assert version._probe_bus() == [
        Feature("nd bus", True, "region0, 1073741824 bytes"),
        Feature("nd bus", None, "region1 tells no size"),
    ]


def test_the_cpus_instructions_are_those_that_linux_names() -> None:
    flags = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.split())
    if not flags:
        pytest.skip("this CPU has no flags in /proc/cpuinfo: no x86")
    found = answers(version._probe_cpu)
    assert found["clwb"] == ("clwb" in flags)
    assert found["movdir64b"] == ("movdir64b" in flags)
    assert found["AVX2"] in (None, "avx2" in flags)


def test_a_core_without_checksums_says_nothing_of_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    used = {"flush": "clflush", "store_line": "movntdq", "digest": None}
    monkeypatch.setattr(_native, "instructions", lambda: used)
    assert answers(version._probe_cpu) == {"clwb": False, "movdir64b": False, "AVX2": None}
