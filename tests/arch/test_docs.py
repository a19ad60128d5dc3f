"""What the documents say of the code is what the code says."""

import importlib.util
import re
from dataclasses import fields
from pathlib import Path

import pytest

from daxmend import events
from daxmend.cli import COMMANDS, run
from daxmend.events import Event
from daxmend.extent import Extent

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["errors", "api", "performance"])
def test_a_generated_page_is_what_its_generator_says(page: str) -> None:
    spec = importlib.util.spec_from_file_location(page, _ROOT / f"docs/generate_{page}.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    is_new = (_ROOT / f"docs/{page}.md").read_text() == generate.document()
    assert is_new, "./run docs writes it anew"


def _event_classes() -> list[type[Event]]:
    return [
        value
        for value in vars(events).values()
        if isinstance(value, type) and issubclass(value, Event) and value is not Event
    ]


@pytest.mark.parametrize("event", _event_classes(), ids=lambda event: event.name)
def test_events_md_has_every_event_with_its_fields(event: type[Event]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", (_ROOT / "docs/events.md").read_text(), re.M)
    documented = dict(rows)
    names: list[str] = []
    for field in fields(event):
        names += ["offset", "length"] if field.type in (Extent, "Extent") else [field.name]
    assert re.findall(r"`(\w+)`", documented[event.name]) == names


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_has_every_command(command: str) -> None:
    assert f"`daxmend {command}" in (_ROOT / "README.md").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"Usage: daxmend {command}" in capsys.readouterr().out
