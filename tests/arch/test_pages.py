"""The pages hang together: links lead somewhere, words and rules are explained."""

import json
import re
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from page import ROOT, pages

_DOCS = ROOT / "docs"
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SVG = "{http://www.w3.org/2000/svg}"


def _prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCED.sub("", page.read_text())


def _anchors(page: Path) -> set[str]:
    """What links can name in a page, as GitHub makes it of the headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(_prose(page)):
        if "://" in link:
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


def test_the_index_has_every_page_and_the_readme_names_the_index() -> None:
    index = set(_LINK.findall((_DOCS / "README.md").read_text()))
    assert {page.name for page in _DOCS.glob("*.md")} - {"README.md"} <= index
    assert "docs/README.md" in _LINK.findall((ROOT / "README.md").read_text())


def _entries() -> dict[str, str]:
    parts = re.split(r"^### (.*)$", (_DOCS / "glossary.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_glossary_is_in_order_and_each_word_says_where_it_matters() -> None:
    entries = _entries()
    assert list(entries) == sorted(entries, key=str.lower)
    assert [word for word, text in entries.items() if not _LINK.search(text)] == []


def test_words_that_pages_mark_are_in_the_glossary() -> None:
    """In concepts.md a word is bold where it is explained; in the README it stands in italics."""
    marked = re.findall(r"\*\*([^*\n]+)\*\*", _prose(_DOCS / "concepts.md"))
    section = _prose(ROOT / "README.md").partition("### Poison, recorded, lost\n")[2]
    marked += re.findall(r"(?<!\*)\*(\w+)\*", section.partition("\n#")[0])
    words = " ".join(_entries()).lower()
    assert len(marked) > 20
    missing = [word for word in marked if word.lower().removesuffix("ed").rstrip("s") not in words]
    assert missing == []


def test_every_rule_that_is_cited_is_explained() -> None:
    explained = set(re.findall(r"^- \*\*(R\d+)\*\*", (_DOCS / "rules.md").read_text(), re.M))
    places = [*(ROOT / "src").rglob("*.[pc]*"), *pages()]
    texts = [path.read_text() for path in places if path.suffix in (".py", ".c", ".md")]
    cited = {rule for text in texts for rule in re.findall(r"\bR[1-9]\d?\b", text)}
    assert cited - explained == set()
    assert explained == {f"R{number}" for number in range(1, 51)}


def test_the_table_of_strategies_is_what_was_recorded() -> None:
    rows = re.findall(
        r"^\| .* \| ([\w, ]+) \| (\d|-) \| (.*) \| `(\w+)` \|$",
        (_DOCS / "concepts.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 5
    for systems, extents, block, scenario in rows:
        for system in systems.lower().split(", "):
            name = f"linux-6.1.192-{system}.json"
            records = json.loads((ROOT / "tests/conformance/data" / name).read_text())
            record = next(record for record in records if record["name"] == scenario)
            assert str(record["end"].get("extents", "-")) == extents, (system, scenario)
            is_bad = bool(record["steps"][-1]["result"]["bad_after"])
            assert is_bad == block.startswith("still recorded"), (system, scenario)


_PICTURES = sorted((_DOCS / "pictures").glob("*.svg"))


@pytest.mark.parametrize("picture", _PICTURES, ids=lambda picture: picture.name)
def test_a_picture_says_what_it_shows_and_is_shown(picture: Path) -> None:
    text = picture.read_text()
    root = ElementTree.fromstring(text)
    assert root.get("viewBox")
    assert root.find(f"{_SVG}title") is not None
    assert root.find(f"{_SVG}desc") is not None
    assert "prefers-color-scheme: dark" in text, "it must be readable on a dark page, too"
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")
    shown = [
        alt
        for page in pages()
        for alt, link in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", page.read_text())
        if (page.parent / link).resolve() == picture
    ]
    assert shown, "no page shows it"
    assert all(shown), "a picture needs words for those who cannot see it"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_source_files_that_a_page_names_are_there(page: Path) -> None:
    """As `dax/io.py` below the package, or from the top."""
    places = (ROOT, ROOT / "src/daxmend", ROOT / "tests", page.parent)
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:pyi?|md|json))`", page.read_text())
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
