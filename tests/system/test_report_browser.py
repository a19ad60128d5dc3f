"""The page in a real browser: on a telephone as on a wide screen, nothing stands out at the side.

`./run` does not install one: it is half a gigabyte, and takes longer than all else it installs.
What every page must be is checked without one, too (tests/pagecheck.py).
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from daxmend.report.page import render
from daxmend.report.pagegather import gather
from daxmend.units import PAGE, SECTOR
from filepool import STRANGE, FilePool

_BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
_MEASURE = """
<script>
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const wide = [...page.body.querySelectorAll("*")].filter(each => {
      const box = each.getBoundingClientRect();
      return box.right > root.clientWidth + 1 && box.width > 0;
    });
    const small = [...page.querySelectorAll("rect")].filter(
      each => each.getBoundingClientRect().width < 1);
    return {width: root.clientWidth, scrolls: root.scrollWidth, small: small.length,
            wide: wide.map(each => each.outerHTML.slice(0, 80))};
  });
  document.body.replaceChildren(JSON.stringify(found));
};
</script>
"""


@pytest.fixture
def bad_page(shm: Path) -> str:
    """With everything that can be wide: names, numbers, many ranges and events."""
    pool = FilePool(shm / "pool")
    pool.make(STRANGE, b"n" * 255, b"words " * 40, pages=64)
    for name in (STRANGE, b"n" * 255, b"words " * 40):
        for page in range(0, 60, 2):
            pool.inject(name, page * PAGE, SECTOR)
    pool.inject(None, 2 * PAGE, SECTOR)
    pool.inject(None, 6 << 20, SECTOR)
    pool.inject(None, 5 << 20, 64, "--latent")
    facts = gather(str(pool.path))
    facts.events = [
        {
            "sequence": 1 << 40, "time_ns": 1 << 60, "event": "file_damaged", "offset": 1 << 50,
            "length": 1 << 50, "path": "/" + "p" * 300, "ino": 1 << 40, "file_offset": 1 << 50,
        }
    ]  # fmt: skip
    facts.status["members"] = [{"name": "m" * 200, "size": 1 << 50, "recovers": "in parts"}]
    facts.unknown.append("u" * 300)
    return render(facts).decode()


@pytest.mark.skipif(_BROWSER is None, reason="no browser; apt-get install chromium")
def test_nothing_is_cut_off_or_scrolls_sideways_on_any_screen(
    bad_page: str, tmp_path: Path
) -> None:
    frames = "".join(
        f'<iframe width="{width}" height="600" style="border:0" srcdoc="{html.escape(bad_page)}">'
        "</iframe>"
        for width in (320, 360, 768, 1600)
    )
    (tmp_path / "frames.html").write_text(f"<!DOCTYPE html><body>{frames}{_MEASURE}")
    assert _BROWSER is not None
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile")
    ran = subprocess.run(
        [_BROWSER, *options, "--dump-dom", f"file://{tmp_path}/frames.html"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    body = re.search(r"<body>(.*)</body>", ran.stdout.decode(), re.DOTALL)
    assert body is not None, ran.stderr[-2000:]
    found = json.loads(html.unescape(body[1]))
    assert len(found) == 4
    for frame in found:
        assert frame["scrolls"] <= frame["width"], frame
        assert frame["wide"] == [], frame
        assert frame["small"] == 0, frame
