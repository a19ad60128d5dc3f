"""Mappings of a damaged raw device: exact faults, and changes that reach them (R24, R27)."""

import errno
import json
import mmap
import os
import signal

import pytest
from rawmount import NEW, PAGE, SECTOR, Mounted, died_of_sigbus, in_child, pattern, program, wait

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True

BUS_ADRERR = 2


def mapping_of(raw: Mounted, fd: int) -> mmap.mmap:
    return mmap.mmap(fd, raw.size)


def test_a_mapped_load_of_a_bad_page_is_a_sigbus_at_the_exact_address_r24(raw: Mounted) -> None:
    raw.make_bad(26)
    with raw.mapped("ro") as mapping:
        for offset in (26 * PAGE, 26 * PAGE + 1, 26 * PAGE + 1000, 27 * PAGE - 1):
            assert mapping.load(offset) == (offset, BUS_ADRERR)
        assert mapping.load(26 * PAGE - 8, 8) == pattern(25)[-8:]
        assert mapping.load(27 * PAGE, PAGE) == pattern(27)
        # across the border: the bytes before it were loaded, the first bad one faults
        assert mapping.load(26 * PAGE - 8, 16) == (26 * PAGE, BUS_ADRERR)


def test_one_bad_sector_takes_its_page_from_mappings_r24(raw: Mounted) -> None:
    raw.write_control("badblocks", f"{26 * 8 + 3} 1\n")
    with raw.mapped() as mapping:
        assert mapping.load(26 * PAGE) == (26 * PAGE, BUS_ADRERR)
        assert mapping.load(27 * PAGE - 1) == (27 * PAGE - 1, BUS_ADRERR)
        assert mapping.load(25 * PAGE, PAGE) == pattern(25)


def test_python_that_loads_a_bad_page_dies_of_sigbus_and_neighbours_load(raw: Mounted) -> None:
    raw.make_bad(26)
    with raw.opened() as fd, mapping_of(raw, fd) as mapping:
        assert died_of_sigbus(lambda: mapping[26 * PAGE + 77])
        assert not died_of_sigbus(lambda: mapping[26 * PAGE - 1])
        assert not died_of_sigbus(lambda: mapping[27 * PAGE])


def test_a_mapped_store_to_a_bad_page_is_a_sigbus_and_heals_nothing_r24(raw: Mounted) -> None:
    raw.make_bad(26)
    with raw.mapped() as mapping:
        offset = 26 * PAGE + 5
        assert mapping.store(offset, 0x41) == (offset, BUS_ADRERR)
        assert mapping.store(26 * PAGE - 1, 0x41) == "ok"
        assert mapping.store(27 * PAGE, 0x42) == "ok"
        assert mapping.sync() == "ok"
    assert raw.badblocks == f"{26 * 8} 8\n"
    assert raw.pread(1, 26 * PAGE - 1) == b"\x41"
    assert raw.pread(1, 27 * PAGE) == b"\x42"


def test_a_mapped_load_of_latent_poison_is_a_sigbus_and_enters_the_record_r3(raw: Mounted) -> None:
    raw.write_control("poison", f"{26 * PAGE + 1000} 8\n")
    with raw.mapped("ro") as mapping:
        assert mapping.load(26 * PAGE) == (26 * PAGE, BUS_ADRERR)
        assert raw.badblocks == f"{26 * 8 + 1} 1\n"
        assert mapping.load(27 * PAGE, 8) == pattern(27)[:8]


def test_a_page_that_a_mapping_has_cached_faults_after_injection_r27(raw: Mounted) -> None:
    with raw.mapped() as mapping, raw.mapped("ro") as other:
        for one in (mapping, other):
            assert one.load(26 * PAGE, PAGE) == pattern(26)
        raw.make_bad(26)  # returns when no mapping shows the old bytes any more
        for one in (mapping, other):
            assert one.load(26 * PAGE) == (26 * PAGE, BUS_ADRERR)
            assert one.load(25 * PAGE, 8) == pattern(25)[:8]


def test_no_old_byte_is_loaded_after_the_injecting_write_has_returned_r27(raw: Mounted) -> None:
    with raw.opened() as fd, mapping_of(raw, fd) as mapping:
        for page in range(64):
            assert mapping[page * PAGE] == pattern(page)[0]
            raw.make_bad(page)
            assert died_of_sigbus(lambda page=page: mapping[page * PAGE])


def test_latent_injection_takes_the_cached_bytes_from_mappings_too_r2(raw: Mounted) -> None:
    with raw.mapped() as mapping:
        assert mapping.load(26 * PAGE, 8) == pattern(26)[:8]
        raw.write_control("poison", f"{26 * PAGE} 64\n")
        assert mapping.load(26 * PAGE) == (26 * PAGE, BUS_ADRERR)
    assert raw.badblocks == f"{26 * 8} 1\n"


def test_a_mapping_that_was_open_all_the_time_sees_the_healed_page_r27(raw: Mounted) -> None:
    (raw.base / "good").write_bytes(NEW)
    with raw.mapped() as mapping, raw.mapped("ro") as other:
        assert mapping.load(26 * PAGE, 8) == pattern(26)[:8]
        raw.make_bad(26)
        assert mapping.load(26 * PAGE) == other.load(26 * PAGE) == (26 * PAGE, BUS_ADRERR)
        healed = program(
            "dd", f"if={raw.base}/good", f"of={raw.device}", f"bs={PAGE}", "seek=26", "count=1",
            "conv=notrunc",
        )  # fmt: skip
        assert healed.status == 0
        assert mapping.load(26 * PAGE, PAGE) == other.load(26 * PAGE, PAGE) == NEW
        assert mapping.store(26 * PAGE, 0x7E) == "ok"
        assert other.load(26 * PAGE) == b"\x7e"
    assert raw.pread(PAGE, 26 * PAGE) == b"\x7e" + NEW[1:]


def test_un_injection_leaves_the_record_and_mappings_fault_on_it_r2(raw: Mounted) -> None:
    raw.make_bad(26)
    raw.write_control("poison", f"-{26 * PAGE} {PAGE}\n")
    assert raw.badblocks == f"{26 * 8} 8\n"  # the record stays
    with raw.mapped() as mapping:
        assert mapping.load(26 * PAGE) == (26 * PAGE, BUS_ADRERR)


def test_writing_back_a_page_dirtied_before_it_went_bad_never_heals_it_r27(raw: Mounted) -> None:
    with raw.mapped() as mapping:
        for page in (25, 26, 27):
            assert mapping.store(page * PAGE + 9, 0x99) == "ok"
        raw.make_bad(26)
        assert mapping.load(26 * PAGE + 9) == (26 * PAGE + 9, BUS_ADRERR)
        assert mapping.fsync() == f"errno {errno.EIO}"  # a store is lost, and that is said once
        assert mapping.sync() == "ok"
        assert raw.badblocks == f"{26 * 8} 8\n"
        for page in (25, 27):  # good neighbours are not taken along
            assert mapping.load(page * PAGE + 9) == b"\x99"
    for page in (25, 27):
        assert raw.pread(1, page * PAGE + 9) == b"\x99"
    assert raw.read_control("poison") == f"{26 * PAGE} {PAGE}\n"


def test_a_lost_store_is_an_event_and_no_error_to_whoever_heals_the_page_r27(raw: Mounted) -> None:
    (raw.base / "good").write_bytes(NEW)
    events = os.open(raw.control / "events", os.O_RDONLY | os.O_NONBLOCK)
    with raw.mapped() as mapping, raw.opened() as bystander:
        assert mapping.store(26 * PAGE + 9, 0x99) == "ok"
        raw.make_bad(26)
        healed = program(
            "dd", f"if={raw.base}/good", f"of={raw.device}", f"bs={PAGE}", "seek=26", "count=1",
            "conv=notrunc,fsync",
        )  # fmt: skip
        assert healed.status == 0
        assert mapping.load(26 * PAGE, PAGE) == NEW
        assert mapping.sync() == f"errno {errno.EIO}"
        with pytest.raises(OSError):  # as every writer that had it open: whose store it was is open
            os.fsync(bystander)
        os.fsync(bystander)
    names = [json.loads(line)["event"] for line in os.read(events, 1 << 16).splitlines()]
    assert names == ["fault_injected", "recovery_refused", "recovery_done"]


def test_a_dirty_page_over_latent_poison_is_stored_and_the_next_load_fails_r5(raw: Mounted) -> None:
    with raw.mapped() as mapping:
        assert mapping.store(26 * PAGE, 0x99) == "ok"
        raw.write_control("poison", f"{26 * PAGE} 64\n")
        assert mapping.load(26 * PAGE) == (26 * PAGE, BUS_ADRERR)
        assert mapping.sync() == "ok"
    assert raw.badblocks == f"{26 * 8} 1\n"


def test_mapped_stores_reach_read_and_other_processes(raw: Mounted) -> None:
    with raw.mapped() as mapping:
        assert mapping.store(3 * PAGE + 1, 0x55) == "ok"
        assert raw.pread(3, 3 * PAGE)[1:2] == b"\x55"
        raw.pwrite(b"\x66", 3 * PAGE + 1)
        assert mapping.load(3 * PAGE + 1) == b"\x66"


def test_private_mappings_fault_and_heal_like_shared_ones(raw: Mounted) -> None:
    with raw.opened(os.O_RDONLY) as fd:
        mapping = mmap.mmap(fd, raw.size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        assert mapping[26 * PAGE] == pattern(26)[0]
        raw.make_bad(26)
        assert died_of_sigbus(lambda: mapping[26 * PAGE])
        raw.pwrite(NEW, 26 * PAGE)
        assert mapping[26 * PAGE : 27 * PAGE] == NEW
        mapping.close()


def test_system_calls_on_a_bad_page_of_a_mapping_get_an_error_not_a_signal(raw: Mounted) -> None:
    raw.make_bad(26)
    target = os.memfd_create("target")
    with raw.opened() as fd:
        page = memoryview(mapping_of(raw, fd))[26 * PAGE : 27 * PAGE]
        with pytest.raises(OSError) as info:
            os.write(target, page)
    assert info.value.errno == errno.EFAULT
    assert os.fstat(target).st_size == 0


def test_a_child_that_dies_of_sigbus_leaves_the_mount_in_order(raw: Mounted) -> None:
    raw.make_bad(26)

    def load() -> None:
        with raw.opened() as fd, mapping_of(raw, fd) as mapping:
            mapping[26 * PAGE : 27 * PAGE]

    assert [wait(child) for child in [in_child(load) for _ in range(4)]] == [-signal.SIGBUS] * 4
    assert raw.pread(SECTOR, 25 * PAGE) == pattern(25)[:SECTOR]
