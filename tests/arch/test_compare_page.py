"""docs/compare.md, its picture and README's table are what the stored results say."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from daxmend.report.measure import Outcome
from daxmend.report.plot import draw

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate_compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_of_the_results(generate: ModuleType) -> None:
    assert (DOCS / "compare.md").read_text() == generate.document()


def test_the_readme_has_the_table_of_the_results(generate: ModuleType) -> None:
    assert (DOCS.parent / "README.md").read_text() == generate.readme()


def test_the_picture_is_that_of_the_results(generate: ModuleType) -> None:
    found = generate.load(generate.stored()[0], "compare")
    assert (DOCS / "compare" / "strategies.svg").read_text() == draw(found)


@pytest.mark.parametrize("kind", ["compare", "compare-many"])
def test_each_result_is_of_its_kernel_and_whole(generate: ModuleType, kind: str) -> None:
    assert generate.stored()
    for series in filter(lambda each: generate.has(each, kind), generate.stored()):
        found = generate.load(series, kind)
        assert found.kernel.startswith(f"{series}.")
        assert found.root
        assert found.left_out == []
        assert [each.name for each in found.systems] == ["daxmend", "ext4 -o dax", "xfs -o dax"]
        for system in found.systems:
            for case in system.cases:
                if case.strategy == "pwrite":
                    assert case.rounds[0].outcome in (Outcome.HEALED, Outcome.UNDAMAGED)
