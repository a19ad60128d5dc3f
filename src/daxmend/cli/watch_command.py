"""`daxmend watch`: tell what goes bad, and which file it hits, as it happens."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator

import click

from daxmend.cli.option import TARGET, describe_owner, describe_places, printable, warn
from daxmend.errors import EXIT_DONE, EXIT_UNKNOWN
from daxmend.rescue.target import Range
from daxmend.rescue.watch import Watch, WatchEvent


@click.command("watch")
@click.argument("targets", type=TARGET, nargs=-1, required=True, metavar="TARGET...")
@click.option("--exec", "run", metavar="CMD", help="Run CMD for each event.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.01),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="Seconds between looks at what tells of no change.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line.")
def command(targets: tuple[str, ...], run: str | None, interval: float, as_json: bool) -> int:
    """Say what is bad of each TARGET, then what goes bad and what is healed, as it happens.

    TARGET is a mount point, a mounted pool, a file, or a block or dax device. An event names the
    file and the bytes of it that are hit. The kernel tells of what its drivers find; a look every
    --interval finds the rest. CMD is a line of shell, run once an event and waited for; it gets the
    event on its standard input, and DAXMEND_EVENT, DAXMEND_TARGET, DAXMEND_PATH, DAXMEND_OFFSET and
    DAXMEND_LENGTH.

    Runs until it is interrupted or terminated (exit 0), or no target is left (exit 2).
    """
    try:
        with _terminable(), contextlib.closing(Watch(targets, interval)) as watch:
            warn(watch.notices)
            for event in watch.events():
                document = describe_event(event)
                click.echo(json.dumps(document) if as_json else _line(event))
                if run is not None:
                    _execute(run, document)
    except KeyboardInterrupt:
        return EXIT_DONE
    return EXIT_UNKNOWN


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: a shell's background jobs ignore the latter."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def describe_event(event: WatchEvent) -> dict[str, object]:
    """The event as JSON types (docs/events.md)."""
    document: dict[str, object] = {
        "time_ns": event.time_ns,
        "event": event.event,
        "target": event.target,
        **event.fields,
    }
    if event.range is not None:
        found = event.range
        document |= {
            "offset": found.extent.offset,
            "length": found.extent.length,
            "state": found.kind,
            "owner": found.owner,
            "path": os.fsdecode(found.path) or None,
            "file_offset": found.file_offset,
            "stack": [place._asdict() for place in found.places],
        }
    return document


def _line(event: WatchEvent) -> str:
    said = f"{printable(event.target)}: {event.event}"
    if event.range is not None:
        return f"{said}: {_describe(event.range)}" + " (at start)" * bool(
            event.fields.get("at_start")
        )
    rest = ", ".join(f"{key} {value}" for key, value in event.fields.items())
    return f"{said}: {printable(rest)}" if rest else said


def _describe(found: Range) -> str:
    said = f"{found.extent.length} bytes at offset {found.extent.offset}"
    if found.owner is not None:
        said += f", {describe_owner(found)}"
        if found.file_offset is not None:
            said += f" at offset {found.file_offset}"
    return f"{said}, on {describe_places(found)}" if found.places else said


def _execute(run: str, document: dict[str, object]) -> None:
    """One run of the operator's command; that it failed is said, and the watch goes on."""
    names = ("event", "target", "path", "offset", "length")
    told = {f"DAXMEND_{n.upper()}": str(document[n]) for n in names if document.get(n) is not None}
    ran = subprocess.run(
        ["/bin/sh", "-c", run],
        input=json.dumps(document).encode() + b"\n",
        env={**os.environ, **told},
        check=False,
    )
    if ran.returncode:
        warn([f"'{run}' ended with {ran.returncode}"])
