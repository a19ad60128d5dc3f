"""The score: per open mode, how many promises were kept, and how the answers compare to kernels."""

from collections import Counter
from dataclasses import dataclass, field

from judge import Verdict


@dataclass
class Score:
    """Counts of one open mode (ends of scenarios count as a step each)."""

    scenarios: int = 0
    steps: int = 0
    kept: int = 0
    left_free: int = 0
    inexpressible: int = 0
    failures: list[str] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)
    equal: Counter[str] = field(default_factory=Counter)
    differences: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, name: str, verdicts: list[Verdict]) -> None:
        """Enter a scenario's verdicts."""
        self.scenarios += 1
        for verdict in verdicts:
            self.steps += 1
            self.kept += not verdict.complaints
            self.left_free += bool(verdict.freedom)
            self.inexpressible += not verdict.expressible
            self.failures += [f"{name}: {text}" for text in verdict.failures]
            self._add_kernels(verdict)

    def _add_kernels(self, verdict: Verdict) -> None:
        for kernel, rules in verdict.kernels.items():
            self.compared[kernel] += 1
            is_unexplained = any(f" {kernel}," in text for text in verdict.unexplained)
            self.equal[kernel] += not rules and not is_unexplained
            self.differences.setdefault(kernel, Counter()).update(
                ["+".join(rules)] if rules else []
            )
            if is_unexplained:
                self.differences[kernel]["NO RULE"] += 1

    def lines(self, title: str) -> list[str]:
        """For people."""
        found = [
            f"{title}: {self.scenarios} scenarios, {self.steps} steps: "
            f"{self.kept} promises kept, {len(self.failures)} failures, "
            f"{self.inexpressible} steps not expressible, "
            f"{self.left_free} where the rules leave freedom"
        ]
        for kernel in sorted(self.compared):
            equal, compared = self.equal[kernel], self.compared[kernel]
            differences = self.differences[kernel]
            shown = ", ".join(f"{rule} {differences[rule]}" for rule in sorted(differences))
            found.append(f"  equal to {kernel:9} {equal:4} of {compared}; different by {shown}")
        return found + [f"  FAILED {text}" for text in self.failures]
