"""Public things have docstrings: a docstring is a contract."""

import ast
from collections.abc import Iterator
from pathlib import Path

import daxmend

ROOT = Path(daxmend.__file__).parent
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def is_public(node: Definition) -> bool:
    return not node.name.startswith("_")


def is_a_stub(node: Definition) -> bool:
    """A protocol's or an ABC's one-liner `...`, whose class says what it is."""
    last = node.body[-1]
    return (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Constant)
        and last.value.value is Ellipsis
    )


def undocumented(path: Path) -> Iterator[str]:
    """Public functions, classes and methods of public classes without a docstring.

    A method that overrides one of a base class named in the same statement has its contract there.
    """
    tree = ast.parse(path.read_text())
    name = path.relative_to(ROOT)
    if ast.get_docstring(tree) is None and tree.body:
        yield f"{name}: the module"
    for node in tree.body:
        if not isinstance(node, Definition) or not is_public(node):
            continue
        if ast.get_docstring(node) is None:
            yield f"{name}: {node.name}"
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if (
                    isinstance(method, Definition)
                    and is_public(method)
                    and ast.get_docstring(method) is None
                    and not is_a_stub(method)
                    and not overrides(node, method)
                ):
                    yield f"{name}: {node.name}.{method.name}"


def overrides(cls: ast.ClassDef, method: Definition) -> bool:
    """True if a base class, found by its name anywhere in daxmend, documents the method."""
    bases = {ast.unparse(base).split(".")[-1].split("[")[0] for base in cls.bases}
    return any((base, method.name) in DOCUMENTED for base in ancestors(bases))


def ancestors(names: set[str]) -> set[str]:
    found = set(names)
    for name in names:
        found |= ancestors(BASES.get(name, set()))
    return found


def classes() -> Iterator[ast.ClassDef]:
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield node


BASES = {
    cls.name: {ast.unparse(base).split(".")[-1].split("[")[0] for base in cls.bases}
    for cls in classes()
}
DOCUMENTED = {
    (cls.name, method.name)
    for cls in classes()
    for method in cls.body
    if isinstance(method, Definition) and (ast.get_docstring(method) or is_a_stub(method))
}


def test_everything_public_has_a_docstring() -> None:
    missing = [entry for path in sorted(ROOT.rglob("*.py")) for entry in undocumented(path)]
    assert missing == []
