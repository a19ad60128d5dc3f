"""Facts in the past tense with typed fields (R48), and who hears of them."""

import dataclasses
import inspect
import json

import pytest

from daxmend import events
from daxmend.events import Event, EventHub, FaultInjected, FaultRemoved, RecoveryRefused
from daxmend.extent import Extent

EXTENT = Extent(4096, 512)
CLASSES = [
    cls
    for _, cls in inspect.getmembers(events, inspect.isclass)
    if issubclass(cls, Event) and cls is not Event
]
_SAMPLE_FIELDS = {
    "Extent": EXTENT,
    "bool": True,
    "int": 1,
    "str": "why",
}


def sample(cls: type[Event]) -> Event:
    """An event of the class with something in every field."""
    return cls(
        **{
            field.name: _SAMPLE_FIELDS[getattr(field.type, "__name__", str(field.type))]
            for field in dataclasses.fields(cls)
        }
    )


def test_the_wire_name_is_the_class_in_snake_case() -> None:
    assert FaultInjected.name == "fault_injected"
    assert RecoveryRefused(EXTENT, "x").name == "recovery_refused"
    assert len({cls.name for cls in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.name)
def test_every_event_is_one_json_object_with_bytes_for_offsets(cls: type[Event]) -> None:
    """R47: an extent becomes `offset` and `length`."""
    record = json.loads(json.dumps(sample(cls).as_dict()))
    assert record.pop("event") == cls.name
    if "extent" in (field.name for field in dataclasses.fields(cls)):
        assert (record.pop("offset"), record.pop("length")) == EXTENT
    others = {field.name for field in dataclasses.fields(cls)} - {"extent"}
    assert record.keys() == others


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.name)
def test_a_fact_cannot_be_changed_afterwards(cls: type[Event]) -> None:
    event = sample(cls)
    field = dataclasses.fields(cls)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, field, None)


def test_everybody_hears_in_the_order_of_subscription() -> None:
    hub, heard = EventHub(), []
    hub.subscribe(lambda event: heard.append(("first", event)))
    hub.subscribe(lambda event: heard.append(("second", event)))
    fact = FaultRemoved(EXTENT)
    hub.publish(fact)
    assert heard == [("first", fact), ("second", fact)]


def test_who_has_left_hears_nothing_more() -> None:
    hub, heard = EventHub(), []
    leave = hub.subscribe(heard.append)
    leave()
    hub.publish(FaultRemoved(EXTENT))
    assert heard == []


def test_a_subscriber_may_leave_while_it_is_told() -> None:
    hub, heard = EventHub(), []
    leave = hub.subscribe(lambda event: leave())
    hub.subscribe(heard.append)
    fact = FaultRemoved(EXTENT)
    hub.publish(fact)
    assert heard == [fact]
