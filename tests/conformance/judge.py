"""Judges a replayed scenario by the rules, and explains by rules where a kernel did otherwise."""

import copy
import itertools
from dataclasses import dataclass, field
from typing import Any

from answer import ANSWER_KEYS, Answer, Mapping, Promise, mapping_of, same_answer
from promise import Model
from scenario import Observation, Scenario, Step
from state import FRESH, PER_PAGE

INEXPRESSIBLE = "not expressible"
AFTER_INEXPRESSIBLE = "follows a step not expressible"
KernelResult = dict[str, Any]


@dataclass(frozen=True)
class Done:
    """What a step did on a mount: the result, and every file's mapping after it."""

    result: Answer
    mappings: dict[str, Mapping] | None = None


@dataclass(frozen=True)
class Transcript:
    """A replayed scenario; `left`: sectors of free pages that never left the record (R31)."""

    steps: tuple[Done, ...]
    end: dict[str, Any]
    left: tuple[int, ...] = ()


@dataclass
class Verdict:
    """One step, or the end (`index` None): complaints, and what each kernel's result is to ours.

    `kernels`: `()` where it is equal, else the rules that allow the difference. `unexplained`:
    differences that no rule allows.
    """

    index: int | None
    step: Step
    complaints: list[str] = field(default_factory=list)
    kernels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)
    expressible: bool = True
    freedom: str = ""

    @property
    def failures(self) -> list[str]:
        where = "end" if self.index is None else f"step {self.index} {self.step}"
        return [f"{where}: {text}" for text in [*self.complaints, *self.unexplained]]


# -- promises ------------------------------------------------------------------------------


def judge(
    scenario: Scenario, mode: str, transcript: Transcript, buffer: str = "aligned"
) -> list[Verdict]:
    """Judge each step and the end."""
    model = Model(mode, buffer)
    verdicts = []
    astray: set[str] = set()  # kernels that did what a mount cannot: their file is another one now
    for index, (step, done) in enumerate(zip(scenario.steps, transcript.steps, strict=True)):
        model, promise, complaints = _judge_step(model, step, done)
        verdict = Verdict(index, step, complaints, freedom=promise.freedom)
        verdict.expressible = promise.expressible
        for kernel, seen in scenario.observed.items():
            rules = explain(model, promise, done.result, seen.results[index])
            _note(verdict, kernel, rules, astray, seen.results[index])
        verdicts.append(verdict)
    verdicts.append(_judge_end(scenario, model, transcript, astray))
    return verdicts


def _judge_step(model: Model, step: Step, done: Done) -> tuple[Model, Promise, list[str]]:
    before = copy.deepcopy(model)
    promise = model.apply(step)
    if promise.may_refuse and done.result.get("errno") == "EIO":
        model, promise = before, before.refuse()
    complaints = promise.complaints(done.result)
    return model, promise, complaints + model.adopt(done.result["bad_after"], done.mappings)


def _note(
    verdict: Verdict,
    kernel: str,
    rules: tuple[str, ...] | None,
    astray: set[str],
    seen: KernelResult,
) -> None:
    """Enter how the kernel's result compares: `rules` as `explain` returned them."""
    if rules != () and kernel in astray:
        rules = (AFTER_INEXPRESSIBLE,)
    elif rules != () and not verdict.expressible:
        rules = (INEXPRESSIBLE,)
        astray.add(kernel)
    elif rules is None:
        verdict.unexplained.append(f"no rule allows the difference from {kernel}, which did {seen}")
        rules = ()
    verdict.kernels[kernel] = rules


def _judge_end(
    scenario: Scenario, model: Model, transcript: Transcript, astray: set[str]
) -> Verdict:
    verdict = Verdict(None, {"op": "end"})
    promised = model.end()
    if transcript.end != promised:
        verdict.complaints.append(f"the end is {transcript.end}, promised {promised}")
    if kept := sorted(set(transcript.left) & model.record.doomed):
        verdict.complaints.append(f"free space is not cleared of the bad sectors {kept} (R31)")
    for kernel, seen in scenario.observed.items():
        if seen.end is not None:
            rules = explain_end(model, transcript.end, seen.end)
            _note(verdict, kernel, rules, astray, seen.end)
    return verdict


# -- differences ---------------------------------------------------------------------------


def explain(
    model: Model, promise: Promise, ours: Answer, kernel: KernelResult
) -> tuple[str, ...] | None:
    """The rules that allow the kernel's result to differ; `()` if it does not, None if none do."""
    rules: set[str] = set()
    if not _equal_answer(ours, kernel):
        found = _why_answer(model, promise, ours, kernel)
        if not found:
            return None
        rules |= found
    for sector in set(ours["bad_after"]) ^ set(kernel["bad_after"]):
        if sector not in model.record.why:
            return None
        rules.update(model.record.why[sector])
    if ours.get("got_pages_of_first_file") != kernel.get("got_pages_of_first_file"):
        rules.add("R31")
    return tuple(sorted(rules))


def _equal_answer(ours: Answer, kernel: KernelResult) -> bool:
    """Equal as far as the kernel's record goes: it has no `close`, and not always data."""
    trimmed = {
        key: ours[key]
        for key in ANSWER_KEYS
        if key in ours and (key in kernel or key not in ("data", "close"))
    }
    return same_answer(kernel, trimmed)


def _why_answer(model: Model, promise: Promise, ours: Answer, kernel: KernelResult) -> set[str]:
    """Rules of the step itself, else of what was done to its pages before."""
    both_fault = "signal" in ours and "signal" in kernel
    if both_fault and ours["si_addr_offset"] == kernel["si_addr_offset"]:
        return {"R24"}
    earlier = {rule for page in promise.touched for rule in model.why_page.get(page, ())}
    if "signal" in ours or "ok" in ours:  # a fault follows from the page, not from R24
        return earlier or set(promise.rules)
    return set(promise.rules) or earlier or set(_why_size(model, promise))


def _why_size(model: Model, promise: Promise) -> tuple[str, ...]:
    return model.why_size if promise.touched else ()


def explain_end(
    model: Model, ours: dict[str, Any], kernel: dict[str, Any]
) -> tuple[str, ...] | None:
    """As `explain`, for the end state."""
    rules: set[str] = set()
    for key in ("moved_pages", "lost_pages", "unwritten_pages"):
        for page in set(ours.get(key, ())) ^ set(kernel.get(key, ())):
            if page not in model.why_page:
                return None
            rules.update(model.why_page[page])
    if ours.get("extents") != kernel.get("extents") and not rules:
        rules = {rule for found in model.why_page.values() for rule in found}
        rules |= {"R11"} if model.copied else set()  # XFS copied by sharing; ours reads
        if not rules:
            return None
    if ours.get("size") != kernel.get("size"):
        if not model.why_size:
            return None
        rules.update(model.why_size)
    return tuple(sorted(rules))


# -- the model alone -----------------------------------------------------------------------


def ideal(
    scenario: Scenario,
    mode: str,
    observed: Observation | None = None,
    allocator: "Allocator | None" = None,
) -> Transcript:
    """The transcript of a mount that keeps every promise.

    Where the rules leave it free it does as the kernel that was observed, if it may. With an
    allocator it places its pages, and says where.
    """
    model = Model(mode)
    steps = []
    for index, step in enumerate(scenario.steps):
        promise = model.apply(step)
        seen = observed.results[index] if observed else {}
        result = _ideal_result(promise, seen)
        mappings = allocator.place(model, result) if allocator else None
        model.adopt(result["bad_after"], mappings)
        steps.append(Done(result, mappings))
    return Transcript(tuple(steps), model.end())


def _ideal_result(promise: Promise, kernel: KernelResult) -> Answer:
    answer = next((a for a in promise.answers if _equal_answer(a, kernel)), promise.answers[0])
    result = dict(answer)
    maybe = promise.maybe & set(kernel.get("bad_after", promise.maybe))
    result["bad_after"] = sorted(promise.bad | maybe)
    if "got_pages_of_first_file" in kernel:
        result["got_pages_of_first_file"] = kernel["got_pages_of_first_file"]
    return result


class Allocator:
    """Places new pages: first fit from `start` on, never where something is bad (R31).

    With `clears` the freed bad sectors have left the record when a step has returned.
    """

    def __init__(self, start: int, *, clears: bool) -> None:
        self._start = start
        self._clears = clears

    def place(self, model: Model, result: Answer) -> dict[str, Mapping]:
        """The mappings after a step; the sectors that are cleared leave the result."""
        if self._clears:
            result["bad_after"] = sorted(set(result["bad_after"]) - model.record.doomed)
        used = {slot.phys for file in model.files.values() for slot in file.slots.values()}
        used |= {sector // PER_PAGE for sector in result["bad_after"]}
        free = (phys for phys in itertools.count(self._start) if phys not in used)
        return {
            name: {
                page: (next(free) if phys >= FRESH else phys, kind)
                for page, (phys, kind) in mapping_of(file).items()
            }
            for name, file in model.files.items()
        }
