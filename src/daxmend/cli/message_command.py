"""`daxmend message`: tell a target of a mapped device something, as `dmsetup message` does."""

import click

from daxmend.cli.option import TARGET, printable, using
from daxmend.rescue.opening import open_device_target


@click.command("message")
@click.argument("target", type=TARGET)
@click.argument("sector", type=click.IntRange(0))
@click.argument("words", metavar="MESSAGE...", nargs=-1, required=True)
def command(target: str, sector: int, words: tuple[str, ...]) -> None:
    """Send MESSAGE to the line of TARGET's table that holds SECTOR, and print the answer.

    TARGET is a pool that holds a table, or the directory where it is mounted; sectors have 512
    bytes. log-writes takes "mark NAME"; writecache "flush", "losses" and "clear_stats"; faulty
    "plan".
    """
    with using(open_device_target(target, writable=True)) as opened:
        answer = opened.send_message(" ".join((str(sector), *words)))
    for line in answer.splitlines():
        click.echo(printable(line))
