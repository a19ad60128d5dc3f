"""A virtual machine without special hardware: QEMU's emulation, emulated pmem, 9p."""

import os
import shlex
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from kernels import Kernel

# Two regions of emulated persistent memory, apart so that the kernel does not make them one.
BOOT_LINE = (
    "memmap=512M!512M memmap=512M!1152M mitigations=off nokaslr console=ttyS0 panic=-1 quiet"
)
MEMORY = "3G"
CHECKED_OUT = ("src", "tests", "docs")  # what of the checkout the tests use
START = Path(__file__).with_name("guest") / "start.sh"


def qemu_command(kernel: Kernel, initramfs: Path, share: Path) -> list[str]:
    """The machine: the host's root as `host`, read-only; the directory `share` as `ring`."""
    model = "passthrough" if os.geteuid() == 0 else "none"
    root = "local,path=/,mount_tag=host"
    return [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
        "-m", MEMORY, "-display", "none", "-serial", "stdio", "-no-reboot", "-nic", "none",
        "-kernel", str(kernel.image), "-initrd", str(initramfs), "-append", BOOT_LINE,
        "-virtfs", f"{root},security_model={model},readonly=on,multidevs=remap",
        "-virtfs", f"local,path={share},mount_tag=ring,security_model=none",
    ]  # fmt: skip


def write_start(share: Path, kernel: Kernel, checkout: Path, arguments: Sequence[str]) -> None:
    """What the guest runs once it has its root, and the checkout as it is now.

    The guest would not notice that a file of the host's changes while it reads it, and get halves.
    """
    shutil.copy(START, share / "start.sh")
    with tarfile.open(share / "checkout.tar", "w") as archive:
        for name in CHECKED_OUT:
            archive.add(checkout / name, name)
    words = ["exec", "/bin/sh", "/ring/start.sh", *arguments]
    text = f"export CHECKED_OUT={shlex.quote(' '.join(CHECKED_OUT))}\n"
    text += f"export CHECKOUT={shlex.quote(str(checkout))}\n"
    text += f"export MODULES={shlex.quote(str(kernel.modules))}\n{shlex.join(words)}\n"
    (share / "start").write_text(text)


def run_machine(command: Sequence[str], seconds: float, say: Callable[[str], None]) -> bool:
    """Boot, give each line of the console to `say`, wait for power off.

    False if it had not ended after `seconds`, and was killed.
    """
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as machine:
        late = threading.Event()

        def end() -> None:
            late.set()
            machine.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            assert machine.stdout is not None
            for line in machine.stdout:
                say(line.decode(errors="replace").rstrip())
        finally:
            timer.cancel()
            machine.kill()
    return not late.is_set()
