"""The arguments of writecache in a table: dmsetup's, and a short form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from daxmend.dm.line import Line
from daxmend.units import PAGE, SECTOR

_USAGE = "p ORIGIN CACHE 4096 COUNT [OPTIONS…], or CACHE ORIGIN 8 [OPTIONS…]"
_PER_CENT = ("high_watermark", "low_watermark")
# dmsetup knows them, and here they change nothing: nothing is in flight between two calls, and a
# fence commits all that is stored.
_WITHOUT_EFFECT = ("writeback_jobs", "autocommit_blocks", "autocommit_time")
_WITHOUT_VALUE = ("fua", "nofua")
_REFUSED = ("cleaner", "max_age", "metadata_only", "pause_writeback")


class Options(NamedTuple):
    """What a table's line says beside the members."""

    start: int = 0  # where the cache begins on its member, in bytes
    high_watermark: int = 50  # per cent of dirty blocks at which write-back begins
    low_watermark: int = 45  # and at which it ends


def parse_arguments(line: Line) -> tuple[str, str, Options]:
    """Cache, origin and options. Raises `TableError`."""
    words = line.arguments
    if words and words[0] in ("p", "s"):
        return _parse_dmsetup(line, words)
    if len(words) < 3:
        raise line.refused(f"writecache takes {_USAGE}, and has {len(words)} arguments")
    if words[2] != str(PAGE // SECTOR):
        raise line.refused(f"BLOCK_SECTORS is '{words[2]}'; a block is a page, {PAGE // SECTOR}")
    return words[0], words[1], _parse_options(line, words[3:])


def _parse_dmsetup(line: Line, words: Sequence[str]) -> tuple[str, str, Options]:
    if words[0] == "s":
        raise line.refused("the cache is persistent memory, 'p'; on an SSD ('s') there is no DAX")
    if len(words) < 5:
        raise line.refused(f"writecache takes {_USAGE}, and has {len(words)} arguments")
    if words[3] != str(PAGE):
        raise line.refused(f"the block size is '{words[3]}'; with DAX it is a page, {PAGE}")
    if words[4] != str(len(words) - 5):
        raise line.refused(f"COUNT is '{words[4]}', and {len(words) - 5} words follow")
    return words[2], words[1], _parse_options(line, words[5:])


def _parse_options(line: Line, words: Sequence[str]) -> Options:
    options = Options()
    rest = list(words)
    while rest:
        option = rest.pop(0)
        if option in _WITHOUT_VALUE:
            continue
        if option in _REFUSED:
            raise line.refused(f"writecache has no '{option}' here")
        if option not in (*_PER_CENT, *_WITHOUT_EFFECT, "start_sector"):
            raise line.refused(f"writecache has no option '{option}'")
        if not rest:
            raise line.refused(f"'{option}' takes a number")
        options = _with_value(line, options, option, rest.pop(0))
    if options.low_watermark > options.high_watermark:
        raise line.refused("low_watermark is above high_watermark")
    return options


def _with_value(line: Line, options: Options, option: str, word: str) -> Options:
    if option == "start_sector":
        return options._replace(start=line.sectors(word, option) * SECTOR)
    if not (word.isascii() and word.isdigit() and len(word) < 10):
        raise line.refused(f"'{option}' takes a whole number, not '{word}'")
    if option in _PER_CENT:
        if int(word) > 100:
            raise line.refused(f"'{option}' is a number of per cent, not {word}")
        return options._replace(**{option: int(word)})
    return options
