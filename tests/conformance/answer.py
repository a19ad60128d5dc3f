"""Answers, promises of them, and the end state: the words in which the model speaks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from state import FIRST_PAGES, PAGE, SECTOR, UNWRITTEN, FileState

Step = dict[str, Any]
Answer = dict[str, Any]
Mapping = dict[int, tuple[int, str]]  # page -> (phys, kind), as a mount reports it

# What an answer is made of; a result that has one of these and should not is wrong.
ANSWER_KEYS = (
    "ret", "errno", "data", "close", "ok", "signal", "si_code", "si_addr_offset", "si_addr_lsb",
)  # fmt: skip
UNTOUCHED_START = 48  # where the data begins in the first page of an untouched buffer
UNKNOWN_DATA = "?"  # the rules do not say what these bytes are

INEXPRESSIBLE = frozenset({"collapse", "insert", "write_zeroes"})
GRAIN = {"page": PAGE, "sector": SECTOR}


def same_answer(answer: Answer, result: Answer) -> bool:
    """Whether a result is this answer, in everything that makes an answer."""
    return all(
        result.get(key) == answer.get(key) for key in ANSWER_KEYS if answer.get(key) != UNKNOWN_DATA
    )


@dataclass(frozen=True)
class Promise:
    """What is accepted for one step, and why.

    `answers`: any of these; the first is the usual one. `bad`: in the record; `maybe`: perhaps.
    `touched`: pages of the file that the step is about. `freedom`: why there is more than one.
    """

    answers: tuple[Answer, ...]
    rules: tuple[str, ...] = ()
    touched: frozenset[int] = frozenset()
    bad: frozenset[int] = frozenset()
    maybe: frozenset[int] = frozenset()
    expressible: bool = True
    freedom: str = ""
    may_refuse: bool = False

    def complaints(self, result: Answer) -> list[str]:
        """What is wrong with a result, in words; nothing if the promise was kept."""
        found = []
        if not any(same_answer(answer, result) for answer in self.answers):
            shown = {key: result[key] for key in ANSWER_KEYS if key in result}
            found.append(f"answered {shown}, promised {' or '.join(map(str, self.answers))}")
        seen = set(result["bad_after"])
        if missing := sorted(self.bad - seen):
            found.append(f"sectors {missing} left the record")
        if extra := sorted(seen - self.bad - self.maybe):
            found.append(f"sectors {extra} are in the record")
        return [f"{text} ({', '.join(self.rules) or 'no rule in play'})" for text in found]


@dataclass
class Outcome:
    """What a step's method computes; the model adds the record.

    `changes`: the rules are from now on the cause of what the touched pages hold.
    """

    answers: list[Answer]
    rules: tuple[str, ...] = ()
    touched: Iterable[int] = ()
    changes: bool = True
    freedom: str = ""
    expressible: bool = True
    may_refuse: bool = False


@dataclass
class PagePlan:
    """What a write does to one page: `verdict` is plain, fresh, heal, part or refuse."""

    page: int
    lo: int
    hi: int
    verdict: str


def ok(ret: int = 0) -> Outcome:
    """A call that returned."""
    return Outcome([{"ret": ret}])


def failed(name: str, *rules: str, touched: Iterable[int] = ()) -> Outcome:
    """A call that failed, with nothing changed."""
    return Outcome([{"errno": name}], rules, touched)


def sigbus(offset: int) -> Answer:
    """R24 over a FUSE mount."""
    return {
        "signal": "SIGBUS",
        "si_code": "BUS_ADRERR",
        "si_addr_offset": offset,
        "si_addr_lsb": 0,
    }


def direct_of(step: Step) -> bool:
    """Whether the step asks for O_DIRECT."""
    return bool(step.get("direct"))


def mapping_of(file: FileState) -> Mapping:
    """The file's mapping as a mount would report it."""
    return {page: (slot.phys, slot.kind) for page, slot in file.slots.items()}


def end_of(mapping: Mapping, size: int) -> dict[str, Any]:
    """The end state of the observations, from a mapping; the first 64 pages are the original."""
    pages = sorted(mapping)
    extents = sum(
        page - 1 not in mapping or mapping[page - 1] != (mapping[page][0] - 1, mapping[page][1])
        for page in pages
    )
    first = range(FIRST_PAGES)
    return {
        "extents": extents,
        "moved_pages": [page for page in first if page in mapping and mapping[page][0] != page],
        "lost_pages": [page for page in first if page not in mapping],
        "unwritten_pages": [page for page in pages if mapping[page][1] == UNWRITTEN],
        "size": size,
    }
