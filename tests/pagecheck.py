"""What every page must be: whole HTML of one file, that nothing in it could have written."""

import re
from html.parser import HTMLParser

_VOID = {"meta", "link", "br", "hr", "img", "input"}
_SELF_CLOSED = {"rect"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.code: list[str] = []
        self.text: list[str] = []
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "pre":
            self.code.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _SELF_CLOSED:
            self.problems.append(f"<{tag}/>")
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")
        if tag in ("td", "th", "p", "li", "span"):
            self.text.append(" ")

    def handle_data(self, data: str) -> None:
        if "pre" in self.open:
            self.code[-1] += data
        elif "style" not in self.open:
            self.text.append(data)


class Page:
    """A page, checked; `commands` are its shell lines, `text` is what else people read."""

    def __init__(self, data: bytes) -> None:
        self.source = data.decode("utf-8")
        parser = _Page()
        parser.feed(self.source)
        parser.close()
        assert parser.problems == []
        assert parser.open == []
        assert self.source.startswith("<!DOCTYPE html>\n")
        assert not parser.tags & {"script", "iframe", "object", "embed", "form", "link", "base"}
        for tag, name, value in parser.attributes:
            assert name not in ("src", "href", "action", "srcdoc", "style"), (tag, name)
            assert not name.startswith("on"), (tag, name)
            assert "javascript:" not in value
        assert not re.search(r"@import|url\(|https?:", self.source)
        self.commands = [" ".join(code.split()) for code in parser.code]
        self.text = " ".join("".join(parser.text).split())
