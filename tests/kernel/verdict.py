"""What a ring came to, from what the guest left in its share."""

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Verdict:
    """Counts of tests. `fault` says why the ring itself failed, else is empty."""

    tests: int = 0
    failed: int = 0
    skipped: int = 0
    fault: str = ""

    @property
    def passed(self) -> bool:
        """Whether something was tested and all of it passed; a skip is a failure here."""
        return not self.fault and self.tests > 0 and self.failed == self.skipped == 0

    def __str__(self) -> str:
        if self.fault:
            return f"FAILED: {self.fault}"
        counts = f"{self.tests} tests, {self.failed} failed, {self.skipped} skipped"
        return f"{'passed' if self.passed else 'FAILED'}: {counts}"


def read_verdict(share: Path) -> Verdict:
    """From `status`, pytest's exit status, and `junit.xml`; each missing one is a failure."""
    status, report = share / "status", share / "junit.xml"
    if not status.exists() or not report.exists():
        return Verdict(fault="the guest ended before its tests did")
    suites = list(ET.parse(report).getroot().iter("testsuite"))

    def count(*names: str) -> int:
        return sum(int(suite.get(name, 0)) for suite in suites for name in names)

    found = Verdict(count("tests"), count("failures", "errors"), count("skipped"))
    code = status.read_text().strip()
    if found.passed and code != "0":
        return Verdict(fault=f"pytest ended with status {code}")
    return found
