"""The transcripts of the project's pages, run as they stand.

What a page shows is what its reader sees: each line that begins with `$ ` is run, and must print
exactly the lines below it. Three kinds of blocks count, in the order of the page:

- `console`: a terminal. A `cd` lasts.
- `console second`: a second terminal, in the same directory. Its command goes on; a later block of
  this kind shows what it printed since, and `^C` there ends it.
- any other language, if the first line is `# NAME`: the file NAME, made in the directory.
"""

import os
import resource
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from page import Block, blocks

_SECONDS = 30.0  # for what a second terminal is to print

# A user who cannot look into root's home could not run a Python that lies there.
_AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


def _no_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class SecondTerminal:
    """A command that goes on while others are run."""

    def __init__(self, arguments: list[str], directory: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            arguments,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def read(self, expected: str) -> str:
        """What it prints next: `expected`, or up to where that differs or ends."""
        assert self._process.stdout is not None
        pipe, wanted, text = self._process.stdout.fileno(), expected.encode(), b""
        while text != wanted and wanted.startswith(text):
            if not select.select([pipe], [], [], _SECONDS)[0]:
                break
            more = os.read(pipe, len(wanted) - len(text))
            if not more:
                break
            text += more
        return text.decode()

    def end(self) -> str:
        """What Ctrl-C does; and all that was printed and not yet read."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
        try:
            return self._process.communicate(timeout=_SECONDS)[0].decode()
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            raise


class Reader:
    """Somebody who follows a page: a directory of its own, two terminals."""

    def __init__(self, base: Path, *, ordinary: bool = False) -> None:
        """`ordinary`: not as root, if root runs this."""
        self._base = base
        self._as: tuple[str, ...] = _AS_NOBODY if ordinary and os.geteuid() == 0 else ()
        self._second: SecondTerminal | None = None
        programs, self.work = base / "programs", base / "work"
        programs.mkdir()
        self.work.mkdir()
        if self._as:
            base.chmod(0o755)
            os.chown(self.work, 65534, 65534)
        self._put_program(programs / "python3", "")
        self._put_program(programs / "daxmend", " -c 'from daxmend.cli import main; main()'")
        self._environment = {
            **os.environ,
            "LC_ALL": "C",
            "PATH": f"{programs}:{os.environ['PATH']}",
        }
        self._directory = self.work

    def _put_program(self, path: Path, arguments: str) -> None:
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n')
        path.chmod(0o755)

    def follow(self, page: Path) -> int:
        """Do what the page says, from its top to its end; returns how many commands were run.

        An assertion fails at the first one that does not print what the page shows.
        """
        count = 0
        try:
            for block in blocks(page):
                count += self._take(block)
            if self._second is not None:
                raise AssertionError(f"{page.name}: the second terminal was not ended with ^C")
        finally:
            if self._second is not None:
                self._second.end()
        return count

    def _take(self, block: Block) -> int:
        first = block.body.partition("\n")[0]
        if block.language != "console":
            if first.startswith("# ") and len(first.split()) == 2:
                self._make(self._directory / first[2:], block.body)
            return 0
        if block.words == ("second",):
            return self._go_on(block.body)
        assert not block.words, f"what is a console {block.words}?"
        found = steps(block.body)
        for command, expected in found:
            shown = self._run(command)
            assert shown == expected, f"$ {command}\nprints:\n{shown}\nnot:\n{expected}"
        return len(found)

    def _make(self, path: Path, text: str) -> None:
        path.write_text(text)
        if self._as:
            os.chown(path, 65534, 65534)

    def _run(self, command: str) -> str:
        """What a command prints, on both outputs; where it leaves the shell counts."""
        left = self.work / ".directory"
        done = subprocess.run(
            [*self._as, "sh", "-c", f"trap 'pwd > {shlex.quote(str(left))}' EXIT\n{command}\n"],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_no_core,
            text=True,
            check=False,
        )
        self._directory = Path(left.read_text().removesuffix("\n"))
        left.unlink()
        return done.stdout

    def _go_on(self, body: str) -> int:
        started = 0
        if body.startswith("$ "):
            assert self._second is None, "the second terminal is still busy"
            command, _, body = body[2:].partition("\n")
            arguments = [*self._as, "sh", "-c", f"exec {command}"]
            self._second = SecondTerminal(arguments, self._directory, self._environment)
            started = 1
        assert self._second is not None, "the second terminal has no command"
        expected = body.removesuffix("^C\n")
        assert self._second.read(expected) == expected
        if expected != body:
            second, self._second = self._second, None
            assert second.end() == "", "the second terminal printed more"
        return started


def steps(body: str) -> list[tuple[str, str]]:
    """Each command line of a console with the output that the page shows for it."""
    found: list[tuple[str, str]] = []
    for line in body.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].strip(), ""))
        else:
            command, output = found[-1]
            found[-1] = (command, output + line)
    return found
