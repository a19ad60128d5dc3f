"""The guest's first root: busybox, the modules that reach the host's root, and guest/init."""

import re
import shutil
import subprocess
from pathlib import Path

from kernels import Kernel

INIT = Path(__file__).with_name("guest") / "init"
DRIVERS = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
DECOMPRESS = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}


def load_order(modules_dep: str, names: tuple[str, ...]) -> list[str]:
    """The files to load, in order, for modules that are not built in.

    `modules_dep` is depmod's file: `FILE: NEEDED…`; what is named last is to be loaded first.
    """
    needs: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in modules_dep.splitlines():
        path, _, needed = line.partition(":")
        needs[path] = [*reversed(needed.split()), path]
        by_name[_module_name(path)] = path
    files = [path for name in names if name in by_name for path in needs[by_name[name]]]
    return list(dict.fromkeys(files))


def _module_name(path: str) -> str:
    return re.sub(r"\.ko(\.\w+)?$", "", Path(path).name).replace("-", "_")


def build_initramfs(kernel: Kernel, tree: Path) -> Path:
    """Fill the empty directory `tree`, and pack it into `tree.cpio`."""
    for name in ("bin", "dev", "proc", "sys", "host", "memory", "root", "modules"):
        (tree / name).mkdir()
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, tree / "bin" / "busybox")
    shutil.copy(INIT, tree / "init")
    (tree / "init").chmod(0o755)
    order = load_order((kernel.modules / "modules.dep").read_text(), DRIVERS)
    for number, path in enumerate(order):
        _unpack(kernel.modules / path, tree / "modules" / f"{number:02}-{_module_name(path)}.ko")
    return _pack(tree)


def _unpack(source: Path, target: Path) -> None:
    program = DECOMPRESS.get(source.suffix)
    if program is None:
        shutil.copy(source, target)
        return
    with target.open("wb") as out:
        subprocess.run([program, "-dc", str(source)], stdout=out, check=True)


def _pack(tree: Path) -> Path:
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    packed = tree.with_suffix(".cpio")
    command = ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"]
    with packed.open("wb") as out:
        subprocess.run(command, cwd=tree, input=names.encode(), stdout=out, check=True)
    return packed
