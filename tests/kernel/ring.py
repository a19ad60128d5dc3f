"""The kernel ring: boot each stock kernel, run tests/kernel/guest in it, say what came out.

    ./run test-kernel [--kernel SERIES]… [--results DIR] [PYTEST ARGUMENTS…]

Exit status: 0 if every test passed on every kernel, 1 if not; 77 if this machine cannot fetch the
kernels and is none of those that can (a skip, said loudly).
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from initramfs import build_initramfs
from kernels import OS_RELEASE, SERIES, Kernel, NotFetchedError, get_kernel, has_both_kernels
from machine import qemu_command, run_machine, write_start
from verdict import Verdict, read_verdict

CHECKOUT = Path(__file__).parents[2]
RING_SECONDS = 25 * 60.0
SKIPPED = 77
PROGRAMS = (
    "qemu-system-x86_64", "busybox", "cpio", "depmod", "xz", "ndctl", "mkfs.xfs", "xfs_bmap",
    "mkfs.ext4", "filefrag", "dmsetup", "losetup", "cc",
)  # fmt: skip


def run_ring(kernel: Kernel, arguments: Sequence[str], results: Path | None) -> Verdict:
    """Boot one kernel and run the guest's tests; what they leave is copied into `results`."""
    with tempfile.TemporaryDirectory(prefix="daxmend-ring-") as name:
        share, tree = Path(name, "share"), Path(name, "initramfs")
        share.mkdir()
        tree.mkdir()
        write_start(share, kernel, CHECKOUT, arguments)
        command = qemu_command(kernel, build_initramfs(kernel, tree), share)
        ended = run_machine(command, RING_SECONDS, lambda line: say(kernel.series, line))
        if not ended:
            say(kernel.series, f"killed: it had not ended after {RING_SECONDS:.0f} s")
        if results is not None:
            shutil.copytree(share, results / kernel.release, dirs_exist_ok=True)
        return read_verdict(share)


def say(series: str, text: str) -> None:
    """A line of a ring."""
    print(f"[{series}] {text}", flush=True)


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options, and the arguments for pytest."""
    parser = argparse.ArgumentParser(prog="./run test-kernel", allow_abbrev=False)
    parser.add_argument("--kernel", action="append", choices=sorted(SERIES), help="only this one")
    parser.add_argument("--results", type=Path, help="keep reports and recordings in a directory")
    options, rest = parser.parse_known_args(words)
    options.kernel = options.kernel or list(SERIES)
    return options, rest


def refuse(reason: str) -> int:
    """Nothing can be run: a failure where it could have been, else a loud skip."""
    fails = has_both_kernels(OS_RELEASE.read_text() if OS_RELEASE.exists() else "")
    print(f"THE KERNEL RING WAS NOT RUN: {reason}", file=sys.stderr)
    if not fails:
        print("(Debian 12 has everything; here it counts as skipped)", file=sys.stderr)
    return 1 if fails else SKIPPED


def main(words: Sequence[str]) -> int:
    """Run the rings, one after the other."""
    options, arguments = parse(words)
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return refuse(f"missing programs: {' '.join(missing)}")
    try:
        kernels = [get_kernel(series) for series in options.kernel]
    except NotFetchedError as error:
        return refuse(str(error))
    good = True
    for kernel in kernels:
        started = time.monotonic()
        say(kernel.series, f"booting {kernel.package}")
        verdict = run_ring(kernel, arguments, options.results)
        good &= verdict.passed
        say(kernel.series, f"{verdict}, in {time.monotonic() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
