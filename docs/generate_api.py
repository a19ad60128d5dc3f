"""Prints docs/api.md from the docstrings of what others may build on; redirect it there."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import griffe

_SOURCE = Path(__file__).parents[1] / "src"

_HEAD = """# API reference

Generated from the docstrings in `src/daxmend` by `docs/generate_api.py`; a test compares.

Offsets and lengths are bytes, unless they are named sectors (512 bytes). `R14` and the like are
[rules](rules.md), [format.md](format.md) and [persistence.md](persistence.md) are pages. What is
not on this page may change without notice; until 1.0 the rest may, too.
"""


class Section(NamedTuple):
    """A part of the page: a package, what it is for, and `module: names` to show of it."""

    package: str
    purpose: str
    shown: dict[str, str]


_SECTIONS = (
    Section(
        "daxmend.guard",
        "Mapped files that raise: [guide-developer.md](guide-developer.md) has the tasks,\n"
        "[guard.md](guard.md) what is promised. `guard.watch` is the class `Watch`.",
        {
            "guard.mapping": "open Mapping",
            "guard.memmap": "memmap",
            "guard.array": "GuardedArray",
            "guard.watch": "Watch",
            "guard.probe": "probe",
            "guard.recovery": "salvage repair",
            "guard.trap": "Fault",
        },
    ),
    Section(
        "daxmend.testing",
        "The test kit. [testing.md](testing.md) has examples, and the pytest fixtures.",
        {
            "testing.shadow": "ShadowDirectory FaultPlan why_no_mounts",
            "testing.mountedpool": "MountedPool",
            "testing.crash": "CrashExplorer Operation Survival CrashBacking PowerLoss",
        },
    ),
    Section(
        "daxmend.rescue",
        "What the commands do, as calls: a target is anything that a command takes as TARGET.",
        {
            "rescue.opening": "open_target open_device_target",
            "rescue.target": "locate Target DeviceTarget Range Place FileExtent FilePlaces",
            "rescue.recovery_range": "recovery_range narrow_range BusError IoFailure MappedRange",
            "rescue.salvage": "SalvageReport",
            "rescue.repairrun": "RepairReport",
            "rescue.repair": "PageResult State",
            "rescue.repairplan": "BadPage Strategy",
        },
    ),
    Section(
        "daxmend.stack",
        "From a name to a device and a file system.",
        {
            "stack.device": "open_device send_message",
            "stack.filesystem": "open_filesystem",
            "stack.pool": "create create_table",
            "media.pool": "create_memory_pool",
        },
    ),
    Section(
        "daxmend.dax",
        "The interface of every device, and the reads and writes in which a failure turns into\n"
        "recovery. [guide-engineer.md](guide-engineer.md) walks through it.",
        {
            "dax.api": "DaxDevice Window AccessMode Recovery SectorState PageState Salvage "
            "Capability ErrorManagement Holder FaultInjection SparseDevice",
            "dax.io": "read write zeroinit",
        },
    ),
    Section(
        "daxmend.errors",
        "Their errno and exit status stand in [errors.md](errors.md).",
        {
            "errors": "DaxmendError UsageError BusyError ChangedError FaultError MediaError "
            "BadBlockError PoisonError NoRecoveryError TruncatedError CorruptionError "
            "UnknownStateError TableError UnsupportedError"
        },
    ),
    Section(
        "daxmend.events",
        "What happened; the fields of each stand in [events.md](events.md).",
        {"events": "Event EventHub"},
    ),
    Section(
        "daxmend.extent",
        "Ranges of bytes: the only interval arithmetic there is.",
        {"extent": "Extent ExtentSet merged parse_badblocks_line format_badblocks"},
    ),
    Section(
        "daxmend.units",
        "Sizes, alignment, and lengths as text.",
        {"units": "align_down align_up is_aligned parse_size format_size"},
    ),
)


def document() -> str:
    """The whole page."""
    root = griffe.load("daxmend", search_paths=[_SOURCE])
    assert isinstance(root, griffe.Module)
    return "".join([_HEAD, *(line for section in _SECTIONS for line in _section(root, section))])


def _section(root: griffe.Module, section: Section) -> Iterator[str]:
    yield f"\n## {section.package}\n\n{section.purpose}\n"
    exported = root[section.package.partition(".")[2]].exports or []
    for module, names in section.shown.items():
        for name in names.split():
            place = section.package if name in exported else f"daxmend.{module}"
            yield from _entry(root[module].members[name], f"{place}.{name}")


def _entry(thing: griffe.Object, path: str) -> Iterator[str]:
    yield f"\n### {path}\n"
    if isinstance(thing, griffe.Function):
        yield _code(_signature(thing))
        yield f"\n{_text(thing)}\n"
        return
    assert isinstance(thing, griffe.Class)
    made = thing.members.get("__init__") or thing.members.get("__new__")
    if isinstance(made, griffe.Function):
        yield _code(_signature(made, thing.name).partition(" -> ")[0])
    yield f"\n{_text(thing)}\n"
    if isinstance(made, griffe.Function) and made.docstring is not None:
        yield f"\n{_text(made)}\n"
    items = "".join(_items(thing))
    yield f"\n{items}" if items else ""


def _items(thing: griffe.Class) -> Iterator[str]:
    """Its attributes, then its methods: those that say something themselves."""
    own = [member for name, member in thing.members.items() if not name.startswith("_")]
    for member in own:
        if isinstance(member, griffe.Attribute):
            yield f"- `{member.name}{_type(member)}`{_says(member)}\n"
    for member in own:
        if isinstance(member, griffe.Function) and member.docstring is not None:
            text = _text(member).replace("\n", "\n  ").replace("\n  \n", "\n\n")
            yield f"- `{_line(member)}`\n\n  {text}\n"


def _code(text: str) -> str:
    return f"\n```python\n{text}\n```\n"


def _text(thing: griffe.Object) -> str:
    return thing.docstring.value.strip() if thing.docstring is not None else ""


def _words(function: griffe.Function) -> Iterator[str]:
    """Its parameters, without `self`."""
    is_marked = False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and not is_marked:
            yield "*"
            is_marked = True
        default = "" if parameter.default is None else f" = {parameter.default}"
        yield f"{parameter.name}: {parameter.annotation}{default}"


def _line(function: griffe.Function, name: str = "") -> str:
    """As in the source, on one line."""
    returns = "" if function.returns is None else f" -> {function.returns}"
    return f"{name or function.name}({', '.join(_words(function))}){returns}"


def _signature(function: griffe.Function, name: str = "") -> str:
    """The same, on several lines where one would be long."""
    line = _line(function, name)
    if len(line) <= 96:
        return line
    words = "".join(f"    {word},\n" for word in _words(function))
    return f"{name or function.name}(\n{words}){line.rpartition(')')[2]}"


def _type(member: griffe.Attribute) -> str:
    says = "" if member.annotation is None else f": {member.annotation}"
    has_default = "class-attribute" in member.labels and member.value is not None
    return f"{says} = {member.value}" if has_default else says


def _says(member: griffe.Attribute) -> str:
    """The docstring of a property, or the comment behind an attribute."""
    if member.docstring is not None:
        return f": {' '.join(member.docstring.value.split())}"
    comment = member.source.partition("\n")[0].partition("  # ")[2]
    return f": {comment}" if comment else ""


if __name__ == "__main__":
    sys.stdout.write(document())
