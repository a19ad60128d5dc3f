"""Import direction is a test, not a wish (architecture.md; ADR 0001).

Imports for type checking only (`if TYPE_CHECKING`) follow the same table: a layer that names a type
of a layer above it depends on it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import daxmend

ROOT = Path(daxmend.__file__).parent

# Each imports only those left of it. `errors` comes first: parsing a size raises (ADR 0001).
LEAVES = ["errors", "units", "extent", "events"]

# What a package may import, besides the leaves and itself.
ALLOWED: dict[str, set[str]] = {
    "_native": set(),
    "media": {"_native"},
    "host": {"_native"},
    "faults": set(),
    "dax": {"_native"},
    "pmem": {"media", "dax"},
    "dm": {"dax", "faults"},
    "fs": {"dax"},
    "stack": {"fs", "dm", "pmem", "media", "dax", "host", "faults"},
    "rescue": {"stack", "fs", "dm", "dax", "faults", "host", "_native"},
    "guard": {"rescue", "host", "_native"},
    "fuse": {"host"},  # what is mounted where (ADR 0001)
    "mounts": {"fuse", "stack", "fs", "dax", "faults", "host"},
    "report": {"rescue", "stack", "mounts", "fuse", "media", "faults", "host"},
}
ALLOWED["cli"] = set(ALLOWED)
ALLOWED["testing"] = set(ALLOWED) - {"cli"}

TOP_LEVEL = {*LEAVES, *ALLOWED}

# Imports that the table forbids and the code has; each names what would end it. Keep it empty.
KNOWN_EXCEPTIONS: dict[tuple[str, str], str] = {}


class Import(NamedTuple):
    """One import of a part of daxmend: where it stands, and which name it asks for."""

    path: Path
    line: int
    target: str  # dotted, below daxmend: `media.pool`

    @property
    def importer(self) -> str:
        """The package or leaf that imports."""
        return self.path.relative_to(ROOT).parts[0].removesuffix(".py")

    @property
    def package(self) -> str:
        """The package or leaf that is imported."""
        return self.target.split(".")[0]

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.target}"


def modules() -> list[Path]:
    return sorted([*ROOT.rglob("*.py"), *ROOT.rglob("*.pyi")])


def iter_imports(path: Path) -> Iterator[Import]:
    """Every import of daxmend in a module, wherever in it."""
    package = ["daxmend", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from daxmend import _native` imports a package; `from daxmend import __version__` and
            # `from daxmend.units import PAGE` take a name out of a module.
            names = [module]
            if module == "daxmend":
                names = [f"daxmend.{a.name}" for a in node.names if a.name in TOP_LEVEL]
        else:
            continue
        for name in names:
            if name == "daxmend" or name.startswith("daxmend."):
                yield Import(path, node.lineno, name.removeprefix("daxmend").lstrip("."))


IMPORTS = [found for path in modules() for found in iter_imports(path)]


def is_allowed(found: Import) -> bool:
    """By the table above."""
    if found.importer in LEAVES:
        return found.package in LEAVES[: LEAVES.index(found.importer)]
    return (
        found.package == found.importer
        or found.package in LEAVES
        or found.package in ALLOWED[found.importer]
    )


def test_there_is_something_to_check() -> None:
    assert len(modules()) > 30
    assert len(IMPORTS) > 100


def test_every_package_stands_in_the_table() -> None:
    found = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in modules()}
    assert found - {"__init__"} <= {*LEAVES, *ALLOWED}


def test_imports_go_down_only() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if not is_allowed(found) and (found.importer, found.package) not in KNOWN_EXCEPTIONS
    ]
    assert wrong == []


def test_known_exceptions_still_exist() -> None:
    """One that has gone must not come back unseen."""
    found = {(each.importer, each.package) for each in IMPORTS if not is_allowed(each)}
    assert set(KNOWN_EXCEPTIONS) <= found


def test_the_table_has_no_circle() -> None:
    def below(package: str) -> set[str]:
        direct = ALLOWED[package]
        return direct | {lower for each in direct for lower in below(each)}

    for package in ALLOWED:
        assert package not in below(package)


def test_the_driver_knows_only_the_interface_of_dax() -> None:
    """pmem implements `dax.api`; the loops in `dax.io` stand above it."""
    used = {found.target for found in IMPORTS if (found.importer, found.package) == ("pmem", "dax")}
    assert used <= {"dax.api"}


def test_nothing_imports_the_test_kit() -> None:
    users = [str(found) for found in IMPORTS if found.package == "testing"]
    assert [user for user in users if not user.startswith("testing/")] == []


def test_the_package_itself_imports_nothing() -> None:
    assert [str(found) for found in IMPORTS if found.path == ROOT / "__init__.py"] == []


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("media/x.py", "dax.io", False),
        ("media/x.py", "units", True),
        ("units.py", "extent", False),
        ("extent.py", "units", True),
        ("events.py", "errors", True),
        ("errors.py", "units", False),
        ("fuse/x.py", "host.mountinfo", True),
        ("fuse/x.py", "fs", False),
        ("dax/x.py", "pmem.device", False),
        ("cli/x.py", "testing", False),
    ],
)
def test_the_check_itself_refuses_what_it_must(importer: str, target: str, allowed: bool) -> None:
    assert is_allowed(Import(ROOT / importer, 1, target)) == allowed
