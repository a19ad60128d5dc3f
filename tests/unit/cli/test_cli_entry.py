"""The entry point: whenever Ctrl-C comes, no traceback reaches a user."""

import signal
import subprocess
import sys

import pytest

# As if the user pressed Ctrl-C while the module is looked for.
_PROGRAM = """
import signal, sys

module = sys.argv.pop(1)

class PressesCtrlC:
    def find_spec(self, name, path, target=None):
        if name == module:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, PressesCtrlC())
from daxmend.cli import main
main()
"""


def press_ctrl_c_at(module: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, module, "list", "/missing"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("module", ["daxmend.cli.program", "click", "click.core"])
def test_while_the_program_is_loaded_it_dies_of_the_signal_as_others_do(module: str) -> None:
    assert press_ctrl_c_at(module) == (-signal.SIGINT, "")


@pytest.mark.parametrize("module", ["daxmend.cli.list_command", "daxmend.rescue"])
def test_once_it_runs_it_says_that_it_was_interrupted(module: str) -> None:
    status, said = press_ctrl_c_at(module)
    assert (status, said.strip()) == (130, "daxmend: interrupted")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    done = subprocess.run(
        [sys.executable, "-c", ignoring + _PROGRAM, "click", "--version"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
