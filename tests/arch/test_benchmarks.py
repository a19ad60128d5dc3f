"""The benchmarks' bookkeeping; nothing is measured here."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def result(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(_ROOT)
    return importlib.import_module("benchmarks.result")


def run_of(ratio: float, value: float, noise: float = 0.1) -> dict[str, object]:
    """A stored run with a row, a measure and a note."""
    row = {"name": "read", "peer": "memcpy", "ratio": ratio, "noise": noise}
    measure = {"name": "attach", "value": value, "unit": "s"}
    return {"parts": {"device": [row, measure, {"note": "so it was"}]}}


def test_what_moved_by_less_than_noise_is_not_told(result: ModuleType) -> None:
    assert list(result.moved(run_of(1.0, 1.0), run_of(1.19, 1.29))) == []
    assert list(result.moved(run_of(1.0, 1.0, 5.0), run_of(3.0, 1.0))) == []


def test_what_moved_by_more_is_told_with_its_direction(result: ModuleType) -> None:
    assert list(result.moved(run_of(1.0, 1.0), run_of(0.8, 2.0))) == [
        "read against memcpy: ratio 1 -> 0.8, WORSE",
        "attach in s: 1 -> 2, WORSE",
    ]
    assert list(result.moved(run_of(1.0, 1.0), run_of(1.3, 0.5))) == [
        "read against memcpy: ratio 1 -> 1.3, better",
        "attach in s: 1 -> 0.5, better",
    ]


def test_rows_that_only_one_run_has_are_not_compared(result: ModuleType) -> None:
    assert list(result.moved({"parts": {}}, run_of(1.0, 1.0))) == []
    assert list(result.moved(run_of(1.0, 1.0), {"parts": {}})) == []


def test_every_part_has_a_title_in_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(_ROOT)
    page = _ROOT / "docs/generate_performance.py"
    spec = importlib.util.spec_from_file_location("generate_performance", page)
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    parts = importlib.import_module("benchmarks.__main__")._PARTS
    assert generate._TITLES.keys() == parts.keys()
