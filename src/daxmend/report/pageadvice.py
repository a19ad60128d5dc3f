"""What to do about what is bad: a sentence, the next steps, and for each file its commands.

`$SAFE` and `$COPY` are the operator's to set; a shell in which they are not set refuses the line.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Final

from daxmend.report.pagefacts import Command, Facts, Verdict
from daxmend.report.pagetext import ShellText, absolute, counted, listed, shell_line, shell_word
from daxmend.rescue.target import Range
from daxmend.units import format_size

_SAFE: Final = ShellText('"${SAFE:?}"')
_COPY: Final = ShellText('"${COPY:?}"')
_DIR: Final = ShellText('"${DIR:?}"')
_WITH_JOURNAL: Final = ("--apply", "--journal", _SAFE)


def repair_commands(name: str, source: str | None = None) -> list[Command]:
    """For a file, a device or a directory as commands call it; `source` has its good bytes."""
    copy = _COPY if source is None else source
    out = ShellText(f"{_SAFE}/{shell_word(os.path.basename(name.rstrip('/')) or 'saved')}")
    return [
        Command("save what can be read of it", shell_line("daxmend", "salvage", name, "-o", out)),
        Command(
            "repair it in place from an intact copy",
            shell_line("daxmend", "repair", name, "--from", copy, *_WITH_JOURNAL),
        ),
        Command(
            "or, without a copy, with zeros where bytes are lost",
            shell_line("daxmend", "repair", name, "--zero", *_WITH_JOURNAL),
        ),
    ]


def locate_line(facts: Facts) -> str:
    """Lists every range, where the page leaves some out."""
    return shell_line("daxmend", "locate", facts.whole or absolute(facts.target))


def history_line(facts: Facts) -> str | None:
    """Lists every event that is kept; None where there is no such file."""
    mounted = facts.status.get("mounted")
    return shell_line("cat", f"{mounted}/.daxmend/history") if mounted else None


# -- what is no file's -----------------------------------------------------------------------


def is_of_file(found: Range) -> bool:
    """Whether it is a file's that commands can name."""
    return found.owner == "file" and bool(found.path)


def group_of(found: Range, kind: str) -> str:
    """What a range of a target of this kind belongs to, of what is dealt with alike."""
    if found.kind == "quarantined":
        return "quarantined"
    if found.owner == "file":
        return "nameless"
    if found.owner is None:
        return "unowned" if kind in ("file system", "mount point") else "device"
    return found.owner


TITLES: Final = {
    "metadata": "Metadata of the file system",
    "nameless": "Files that have no name any more",
    "unowned": "Whose they are is not known",
    "device": "The device itself",
    "free": "Free space",
    "quarantined": "Quarantined free space",
}


def group_commands(kind: str, facts: Facts, of_host: bool) -> list[Command]:
    """What to do about the ranges of a group."""
    if kind == "quarantined":
        return [Command(
            "nothing: no file gets these blocks; a mount clears them in the background", None
        )]  # fmt: skip
    if kind == "nameless":
        return [Command("nothing: they go when the last program that has them open ends", None)]
    if kind == "free":
        said = "nothing now: the next write to it heals it, or fails"
        return [Command(said if of_host else "nothing: it is nobody's", None)]
    if kind == "metadata":
        return list(_for_metadata(facts, of_host))
    if kind == "unowned":
        if of_host:
            return [Command("see below, what is not known, why", None)]
        return [_check(facts)]
    return list(_for_device(facts, of_host))


def _for_metadata(facts: Facts, of_host: bool) -> Iterator[Command]:
    mounted = facts.status.get("mounted")
    device = absolute(str(facts.status.get("device")))
    if of_host:
        if mounted:
            yield Command("unmount it", shell_line("umount", str(mounted)))
        yield Command("unmounted, of ext4", shell_line("e2fsck", "-f", device))
        yield Command("unmounted, of XFS", shell_line("xfs_repair", device))
        return
    if mounted:
        yield Command("nothing: the mount writes it anew, as soon as the medium allows it", None)
    else:
        yield Command(
            "mount it, at an empty directory DIR: the mount writes it anew",
            shell_line("daxmend", "mount", device, _DIR),
        )
    yield _check(facts)


def _check(facts: Facts) -> Command:
    line = shell_line("daxmend", "check", absolute(str(facts.status.get("device"))))
    return Command("ask whether the file system is whole", line)


def _for_device(facts: Facts, of_host: bool) -> Iterator[Command]:
    name, mounted = absolute(facts.target), facts.status.get("mounted")
    if facts.kind == "dax device":
        yield Command(
            "save what can be read of it",
            shell_line("daxmend", "salvage", name, "-o", ShellText(f"{_SAFE}/saved")),
        )
        namespace = facts.status.get("namespace")
        line = shell_line("ndctl", "clear-errors", str(namespace)) if namespace else None
        said = "zeros where bytes are lost, which its application has to write again"
        yield Command(said if line else f"{said}: ndctl clear-errors of its namespace", line)
    elif of_host:
        said = "a file system on it, if there is one, tells which files are hit once it is"
        yield Command(f"{said} mounted (read-only will do)", None)
        yield from repair_commands(name)
    elif mounted:
        yield from repair_commands(f"{mounted}/device")
    else:
        yield Command(
            "show it as a file, at an empty directory DIR",
            shell_line("daxmend", "mount", "--raw", name, _DIR),
        )
        device = ShellText(f"{_DIR}/device")
        yield Command(
            "repair it from an intact copy",
            shell_line("daxmend", "repair", device, "--from", _COPY, *_WITH_JOURNAL),
        )


# -- the summary -----------------------------------------------------------------------------


def headline(facts: Facts) -> str:
    """One sentence for who reads no other."""
    more = _latent(facts)
    if facts.verdict is Verdict.UNKNOWN:
        return f"Whether anything is bad is unknown: {'; '.join(facts.unknown)}.{more}"
    if facts.verdict is Verdict.CLEAN:
        return f"Nothing is recorded as bad.{more}"
    where = f"{counted(facts.recorded.length, 'byte')} in {counted(facts.recorded.ranges, 'range')}"
    said = f"{where} cannot be read: {listed(facts.hit)}."
    if facts.unknown:
        said += " There may be more: not everything could be asked."
    return said + more


def describe_hit(kind: str, recorded: list[Range]) -> Iterator[str]:
    """What bad ranges of a target of this kind are of, with the bytes of each."""
    if kind == "file":
        yield "they are this file's own"
        return
    lengths = Counter[str]()
    names = set()
    for each in recorded:
        group = "file" if is_of_file(each) else group_of(each, kind)
        lengths[group] += each.extent.length
        names |= {each.path} if group == "file" else set()
    for group in sorted(lengths, key=lambda group: group != "file"):
        what = counted(len(names), "file") if group == "file" else TITLES[group].lower()
        yield f"{what} ({format_size(lengths[group])})"


def _latent(facts: Facts) -> str:
    if not facts.latent.ranges:
        return ""
    return (
        f" But {facts.latent.length} bytes are poisoned that nobody has met yet (latent): the next "
        "access to them fails."
    )


def next_steps(facts: Facts, *, can_scrub: bool) -> list[Command]:
    """What to do now, in order."""
    name = absolute(facts.target)
    steps: list[Command] = []
    if facts.verdict is Verdict.BAD:
        steps += _steps_when_bad(facts, name)
    if can_scrub and (facts.verdict is not Verdict.BAD or facts.unknown):
        said = {
            Verdict.CLEAN: "what nobody has met yet is in no record; to look for it",
            Verdict.UNKNOWN: "reading it finds out",
            Verdict.BAD: "to look for more",
        }[facts.verdict]
        steps.append(Command(said, shell_line("daxmend", "scrub", name)))
    if facts.kind == "directory" and facts.verdict is Verdict.UNKNOWN:
        line = shell_line("daxmend", "salvage", name, "-o", ShellText(f"{_SAFE}/saved"))
        steps.append(
            Command("reading every file finds out, and saves those that are damaged", line)
        )
    return steps


def _steps_when_bad(facts: Facts, name: str) -> Iterator[Command]:
    yield Command("delete nothing, copy nothing over it, punch no holes", None)
    mounted = facts.status.get("mounted")
    is_tree = facts.kind == "directory" or (mounted and facts.kind not in ("file", "raw device"))
    if facts.files_total and is_tree:
        top = str(mounted) if mounted else name
        yield Command(
            "save what can be read of every damaged file",
            shell_line("daxmend", "salvage", top, "-o", ShellText(f"{_SAFE}/saved")),
        )
        source = str(facts.status.get("source", ""))
        copy = source if os.path.isdir(source) else _COPY
        yield Command(
            "repair them all, from intact copies under the same paths",
            shell_line("daxmend", "repair", top, "--from", copy, *_WITH_JOURNAL),
        )
    elif facts.files_total == 1:
        yield from facts.files[0].commands
    elif facts.files_total:
        yield Command("save and repair each file: its commands stand beside it", None)
    if facts.groups:
        yield Command("what is no file's has its own section below", None)
    yield Command("look again", locate_line(facts))
