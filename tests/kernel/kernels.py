"""Debian's stock kernels, fetched with apt and unpacked into a cache; never installed."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

# Series, and the package that depends on the newest of it in Debian 12.
SERIES = {"6.1": "linux-image-amd64", "6.12": "linux-image-6.12-amd64"}
OS_RELEASE = Path("/etc/os-release")


class NotFetchedError(Exception):
    """A kernel is not in the cache and cannot be fetched; the message says why, for people."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package: `boot/` and `lib/modules/` below `root`."""

    series: str
    package: str
    root: Path

    @property
    def image(self) -> Path:
        """What QEMU boots."""
        return next((self.root / "boot").glob("vmlinuz-*"))

    @property
    def release(self) -> str:
        """What `uname -r` will say."""
        return self.image.name.removeprefix("vmlinuz-")

    @property
    def modules(self) -> Path:
        """Its folder of modules, with depmod's files."""
        return self.root / "lib" / "modules" / self.release


def cache_directory() -> Path:
    """Where kernels are kept: `$XDG_CACHE_HOME/daxmend/kernels`, or below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "daxmend" / "kernels"


def has_both_kernels(os_release: str) -> bool:
    """Whether this is the distribution whose archive has them all: Debian 12."""
    values = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', os_release, re.M))
    return values.get("ID") == "debian" and values.get("VERSION_ID") == "12"


def parse_depends(text: str, series: str) -> str | None:
    """The kernel of the series that `apt-cache depends META` names."""
    pattern = rf"^\s*Depends: (linux-image-{re.escape(series)}\.\S+-amd64)$"
    found = re.search(pattern, text, re.M)
    return found[1] if found else None


def newest_package(series: str) -> str | None:
    """What apt offers for the series now; None if it knows of none."""
    if shutil.which("apt-cache") is None:
        return None
    command = ["apt-cache", "depends", SERIES[series]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return parse_depends(done.stdout, series) if done.returncode == 0 else None


def newest_cached(series: str) -> str | None:
    """The kernel of the series that came into the cache last."""
    found = sorted(
        cache_directory().glob(f"linux-image-{series}.*"), key=lambda p: p.stat().st_mtime
    )
    return found[-1].name if found else None


def get_kernel(series: str) -> Kernel:
    """The newest kernel of the series, from the cache if it is there.

    Where apt cannot be asked or the download fails, also after root's `apt-get update`, an older
    one in the cache will do, and is said to be older. Raises `NotFetchedError` if there is none.
    """
    try:
        package = _fetch_newest(series)
    except NotFetchedError as error:
        if (older := newest_cached(series)) is None:
            raise
        print(f"ring: {error}; the cached {older} is used", file=sys.stderr)
        package = older
    return Kernel(series, package, cache_directory() / package)


def _fetch_newest(series: str) -> str:
    """What apt knows, in the cache; if that is not to be had, what it knows after an update.

    A fresh machine has no lists, and an old one has lists of what is no longer there.
    """
    try:
        return _fetch(series, newest_package(series))
    except NotFetchedError as error:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise
        print(f"ring: {error}; trying again after apt-get update", file=sys.stderr)
    subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=sys.stderr)
    return _fetch(series, newest_package(series))


def _fetch(series: str, package: str | None) -> str:
    """Download and unpack `package` into the cache, unless it is there."""
    if package is None:
        raise NotFetchedError(f"apt offers no kernel {series} ({SERIES[series]})")
    cache = cache_directory()
    if (cache / package).is_dir():
        return package
    cache.mkdir(parents=True, exist_ok=True)
    print(f"ring: fetching {package} into {cache}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as name:
        _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=name)
        (archive,) = Path(name).glob("*.deb")
        tree = Path(name, "tree")
        _run("dpkg", "-x", str(archive), str(tree))
        (release,) = (each.name for each in (tree / "lib" / "modules").iterdir())
        _run("depmod", "-b", str(tree), release)
        tree.rename(cache / package)
    return package


def _run(*command: str, cwd: str | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotFetchedError(f"{command[0]} is missing") from error
    if done.returncode:
        raise NotFetchedError(f"{' '.join(command)}: {done.stderr.strip()}")
