"""`daxmend --version`: what runs, and what of Linux and of this CPU was found, for bug reports.

Nothing is looked up in a table of versions: each feature is tried, by the function that uses it.
What cannot be tried here, or is another thing for each file system, is *unknown*, with why.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import platform
import tempfile
from collections.abc import Callable
from typing import Final, NamedTuple

import click

from daxmend import __version__, _native, fuse
from daxmend.cli.option import print_json
from daxmend.errors import UnknownStateError, UnsupportedError
from daxmend.guard import probe
from daxmend.host.ndbus import iter_regions
from daxmend.host.unknown import Unknown
from daxmend.host.zeroing import ZeroVerb, probe_verbs
from daxmend.media.exposure import PAGE, UFFD_USER_MODE_ONLY, Exposure, Mechanism


class Feature(NamedTuple):
    """`is_there` is None where nobody knows; `says` is what it is for, or why not."""

    name: str
    is_there: bool | None
    says: str


_POISON, _GUARD, _POPULATE = "UFFDIO_POISON", "MADV_GUARD_INSTALL", "MADV_POPULATE_READ"
_ANSWERS: Final = {True: "yes", False: "no", None: "unknown"}


def print_version(*, as_json: bool) -> None:
    """Print it; the first line is `daxmend X.Y.Z`, for scripts."""
    features = [feature for probe_some in _PROBES for feature in probe_some()]
    system = os.uname()
    if as_json:
        print_json(
            {
                "version": __version__,
                "python": platform.python_version(),
                "kernel": f"{system.sysname} {system.release}",
                "machine": system.machine,
                "features": [feature._asdict() for feature in features],
            }
        )
        return
    click.echo(f"daxmend {__version__}")
    click.echo(f"Python {platform.python_version()}, {system.sysname} {system.release}, ", nl=False)
    click.echo(system.machine)
    for feature in features:
        click.echo(f"  {feature.name:<22} {_ANSWERS[feature.is_there]:<8} {feature.says}")


def _probe_fuse() -> list[Feature]:
    names = ("FUSE", "mapped direct I/O", "passthrough")
    try:
        offer = fuse.probe_kernel()
    except UnsupportedError as error:
        return [Feature(name, False, str(error)) for name in names]
    if isinstance(offer, Unknown):
        there = Feature(names[0], True, "/dev/fuse can be opened")
        return [there, *(Feature(name, None, offer.why) for name in names[1:])]
    return [
        Feature(names[0], True, f"protocol 7.{offer.minor}"),
        _describe_direct(names[1], offer.kernel.direct_mmap),
        _describe_passthrough(names[2], offer.kernel.passthrough),
    ]


def _describe_direct(name: str, is_there: bool) -> Feature:
    says = "the unit of damage of a mount is the "
    return Feature(name, is_there, says + ("sector" if is_there else "page; from Linux 6.6 on"))


def _describe_passthrough(name: str, is_there: bool) -> Feature:
    if not is_there:
        return Feature(name, False, "from Linux 6.9 on, where it is configured")
    if os.geteuid() != 0:
        return Feature(name, False, "the kernel can; root may")
    return Feature(name, True, "clean files of a shadow mount are as fast as its source")


def _probe_memory() -> list[Feature]:
    try:
        fd = os.memfd_create("daxmend-version", os.MFD_CLOEXEC)
    except OSError as error:
        why = f"no memory to try it on: {error.strerror}"
        return [Feature(name, None, why) for name in (_POISON, _GUARD, _POPULATE)]
    try:
        os.truncate(fd, PAGE)
        return [
            _try_userfaultfd(),
            _try_mechanism(fd, Mechanism.UFFD_POISON, _POISON, "of memfd and tmpfs"),
            _try_mechanism(fd, Mechanism.GUARD_REGION, _GUARD, "of any file"),
            _try_populate(fd),
        ]
    finally:
        os.close(fd)


def _try_userfaultfd() -> Feature:
    try:
        os.close(_native.userfaultfd(UFFD_USER_MODE_ONLY | os.O_CLOEXEC))
    except OSError as error:
        return Feature("userfaultfd", False, os.strerror(error.errno or 0))
    return Feature("userfaultfd", True, "may be opened by this user")


def _try_mechanism(fd: int, mechanism: Mechanism, name: str, whose: str) -> Feature:
    says = f"to make pages {whose} fault"
    try:
        Exposure(fd, 0, PAGE, mechanism=mechanism).close()
    except UnsupportedError:
        return Feature(name, False, f"{says}: not by this kernel, or not for this user")
    return Feature(name, True, says)


def _try_populate(fd: int) -> Feature:
    with mmap.mmap(fd, PAGE) as memory:
        try:
            probe(memory)
        except UnknownStateError as error:
            return Feature(_POPULATE, False, str(error))
        except UnsupportedError as error:
            return Feature(_POPULATE, None, str(error))
    return Feature(_POPULATE, True, "guard.probe tells which pages would fault")


def _probe_file_systems() -> list[Feature]:
    asked = "asked of each file system when it is met"
    directory = tempfile.gettempdir()
    verbs = probe_verbs(directory)
    if isinstance(verbs, Unknown):
        zeroes = Feature(ZeroVerb.WRITE_ZEROES, None, verbs.why)
    else:
        zeroes = Feature(ZeroVerb.WRITE_ZEROES, verbs[ZeroVerb.WRITE_ZEROES], f"in {directory}")
    return [
        zeroes._replace(says=f"{zeroes.says}; {asked}"),
        Feature("FIEMAP", None, asked),
        Feature("GETFSMAP", None, asked),
    ]


def _probe_bus() -> list[Feature]:
    regions = list(iter_regions())
    if not regions:
        return [Feature("nd bus", False, "no persistent memory that libnvdimm knows")]
    return [
        Feature("nd bus", None, region.why)
        if isinstance(region, Unknown)
        else Feature("nd bus", True, f"{region.name}, {region.size} bytes")
        for region in regions
    ]


def _probe_cpu() -> list[Feature]:
    used = _native.instructions()
    flush, line, digest = used["flush"], used["store_line"], used["digest"]
    avx2 = Feature("AVX2", digest == "avx2", "for checksums")
    if digest is None:
        avx2 = Feature("AVX2", None, "the core was built without <xxhash.h>: slow checksums")
    return [
        Feature("clwb", flush == "clwb", f"cache lines are written back by {flush}"),
        Feature("movdir64b", line == "movdir64b", f"a cache line is stored by {line}"),
        avx2,
    ]


def _probe_packages() -> list[Feature]:
    if importlib.util.find_spec("numpy") is None:
        return [Feature("numpy", False, "guard.memmap needs it: pip install 'daxmend[numpy]'")]
    return [Feature("numpy", True, "for guard.memmap")]


_PROBES: Final[list[Callable[[], list[Feature]]]] = [
    _probe_fuse,
    _probe_memory,
    _probe_file_systems,
    _probe_bus,
    _probe_cpu,
    _probe_packages,
]
