"""What a signal's siginfo says, and that it is what this system's headers say."""

import signal
import subprocess
from enum import IntEnum

import pytest

from daxmend.host.siginfo import BusCode, SegvCode, code_name, failed_width, has_width


@pytest.mark.parametrize("codes", [BusCode, SegvCode])
def test_the_codes_are_those_of_the_systems_header(codes: type[IntEnum]) -> None:
    text = "#include <asm/siginfo.h>\n" + "".join(f"= {code.name}\n" for code in codes)
    done = subprocess.run(
        ["cc", "-E", "-P", "-x", "c", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("= ")]
    assert [int(value.strip("()")) for value in found] == list(codes)


def test_a_code_has_its_name_and_another_its_number() -> None:
    assert code_name(signal.SIGBUS, 4) == "BUS_MCEERR_AR"
    assert code_name(signal.SIGSEGV, 1) == "SEGV_MAPERR"
    assert code_name(signal.SIGBUS, 99) == "SIGBUS 99"
    assert code_name(signal.SIGILL, 2) == "SIGILL 2"


def test_only_a_machine_check_has_a_width_r26() -> None:
    assert [code for code in BusCode if has_width(code)] == [4, 5]


@pytest.mark.parametrize(
    ("lsb", "width"), [(5, None), (6, 64), (12, 4096), (40, 1 << 40), (41, None)]
)
def test_a_width_is_a_cacheline_or_more_r26(lsb: int, width: int | None) -> None:
    assert failed_width(lsb) == width
