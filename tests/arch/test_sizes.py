"""Sizes: nobody reads a function of a hundred lines, or a module of a thousand."""

import ast
from collections.abc import Iterator
from pathlib import Path

import daxmend

ROOT = Path(daxmend.__file__).parent
FUNCTION_LINES = 60
MODULE_LINES = 600
CORE_LINES = 1927  # the C core, all of it (docs/adr/0007)


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length in lines of every function, its docstring not counted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                first = node.body[0]
                assert first.end_lineno is not None
                lines -= first.end_lineno - first.lineno + 1
            yield f"{path.relative_to(ROOT)}: {node.name}", lines


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        name: lines
        for path in modules()
        for name, lines in functions(path)
        if lines > FUNCTION_LINES
    }
    assert long == {}


def test_no_module_is_too_long() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in modules()}
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES} == {}


def test_the_c_core_stays_small() -> None:
    sources = [*ROOT.rglob("*.c"), *ROOT.rglob("*.h")]
    assert sources
    assert sum(len(path.read_text().splitlines()) for path in sources) <= CORE_LINES
