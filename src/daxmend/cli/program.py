"""The program: finds the command, runs it, and turns what it raises into one line and a status."""

import importlib
import traceback
from typing import Any

import click

from daxmend.cli import COMMANDS
from daxmend.errors import EXIT_FAILED, EXIT_USAGE, DaxmendError
from daxmend.report.pagetext import one_line


class _Group(click.Group):
    """Imports a command's module when somebody asks for it, so that others start fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module: Any = importlib.import_module(f"daxmend.cli.{cmd_name}_command")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    no_args_is_help=True,
)
@click.option("--version", "is_version", is_flag=True, help="Say what runs, and on what; exit.")
@click.option("--json", "as_json", is_flag=True, help="With --version: one JSON document.")
@click.pass_context
def daxmend(context: click.Context, is_version: bool, as_json: bool) -> None:
    """Find which bytes a media error took, save the rest, repair in place, and rehearse it all."""
    if is_version:
        from daxmend.cli.version import print_version

        print_version(as_json=as_json)
        context.exit()
    if as_json:
        context.fail("--json goes with --version here; give it behind a command")
    if context.invoked_subcommand is None:
        context.fail("Missing command.")


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit status, with what went wrong said on stderr."""
    try:
        status = daxmend.main(arguments, prog_name="daxmend", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except click.Abort:
        return _fail("interrupted", 130)
    except DaxmendError as error:
        return _fail(str(error), error.exit_status)
    except OSError as error:
        said = error.strerror or str(error)
        if not error.filename and _is_of_output(error):
            said = f"it could not be printed: {said}"
        is_named = not error.filename or said.startswith(f"{error.filename}: ")
        return _fail(said if is_named else f"{error.filename}: {said}", EXIT_FAILED)
    except SystemExit:  # click's way out when nobody reads the output any more
        return EXIT_FAILED
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return status if isinstance(status, int) else 0


def _is_of_output(error: OSError) -> bool:
    """Whether it comes out of `click.echo`, by which everything is printed."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is click.echo.__code__ for frame, _ in frames)


def _fail(message: str, status: int) -> int:
    click.echo(f"daxmend: {one_line(message)}", err=True)
    return status
