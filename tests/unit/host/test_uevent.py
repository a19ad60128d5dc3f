"""What the kernel says of devices that come and go."""

import os

from daxmend.host.uevent import UeventSocket, open_uevents, parse_uevent
from daxmend.host.unknown import Unknown

MESSAGE = (
    b"change@/devices/virtual/block/loop0\0ACTION=change\0SUBSYSTEM=block\0MAJOR=7\0MINOR=0\0"
    b"DEVNAME=loop0\0SEQNUM=12\0"
)


def test_a_message_of_the_kernel_is_parsed() -> None:
    found = parse_uevent(MESSAGE)
    assert found is not None
    assert (found.action, found.path) == ("change", "/devices/virtual/block/loop0")
    assert found.fields["DEVNAME"] == "loop0"
    assert found.device == os.makedev(7, 0)


def test_a_device_without_a_number_has_none_and_other_messages_are_none() -> None:
    found = parse_uevent(b"add@/bus/nd\0SUBSYSTEM=nd\0")
    assert found is not None
    assert found.device is None
    assert parse_uevent(b"libudev\0\xfe\xed\xca\xfe") is None
    assert parse_uevent(b"") is None


def test_listening_works_or_is_unknown_and_never_waits() -> None:
    opened = open_uevents()
    if isinstance(opened, Unknown):
        assert "uevents" in opened.why
        return
    assert isinstance(opened, UeventSocket)
    assert opened.fileno() >= 0
    list(opened.read())
    opened.close()
