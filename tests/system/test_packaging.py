"""What people install: the source archive, the wheel made of it, and both from nothing.

Builds take the checkout as it is, copied; nothing of it is used afterwards. Packages that a build
or an installation needs are fetched first: where that cannot be done the tests are skipped.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import daxmend

_ROOT = Path(__file__).parents[2]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())
_VERSION = daxmend.__version__
_IGNORED = shutil.ignore_patterns(
    *(".*", "__pycache__", "build", "dist", "*.egg-info", "*.so", "*.py[co]")
)
_SDIST = "import sys, setuptools.build_meta as b; print(b.build_sdist(sys.argv[1]))"
_OLDEST = 11  # Python 3.11, whose stable ABI the wheel is for
_IMPORT_ALL = """
import importlib, pkgutil, daxmend
needs_more = ("daxmend.guard.array", "daxmend.testing")  # numpy, pytest
for found in pkgutil.walk_packages(daxmend.__path__, "daxmend."):
    if not found.name.startswith(needs_more):
        importlib.import_module(found.name)
print(daxmend.__file__)
"""
pytestmark = pytest.mark.timeout(300)


def run(*words: str | Path, cwd: Path, **environment: str) -> str:
    """What a command prints; it must succeed. Nothing of this checkout is on its path."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**clean, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def pip(python: Path, *words: str | Path, cwd: Path, **environment: str) -> str:
    """This environment's pip, at work on another one's Python."""
    return run(sys.executable, "-m", "pip", "--python", python, *words, cwd=cwd, **environment)


def interpreters() -> dict[str, Path]:
    """The Pythons of this machine that a wheel of 3.11 is for, by their version."""
    found = {}
    for minor in range(_OLDEST, 30):
        names = [shutil.which(f"python3.{minor}")]
        names += sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3"), reverse=True)
        for name in filter(None, names):
            asked = "import sys, sysconfig; print(*sys.version_info[:2], sep='.')"
            said = subprocess.run([name, "-c", asked], capture_output=True, text=True, check=False)
            if said.stdout.strip() == f"3.{minor}":
                found[f"3.{minor}"] = Path(name)
                break
    return found


_PYTHONS = interpreters()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for all of it, on no path of Python's."""
    return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="module")
def packages(place: Path) -> Path:
    """What a build needs, fetched; from then on nothing is asked of the network."""
    return fetch(place, Path(sys.executable), [*_PROJECT["build-system"]["requires"]])


def fetch(place: Path, python: Path, requirements: list[str], to: str = "packages") -> Path:
    """A directory with the wheels of the requirements for a Python; skips where none can be had."""
    wheels = place / to
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", python, "download", "--quiet"),
            *("--only-binary", ":all:", "--dest", wheels, *requirements),
        ],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"packages cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    return wheels


def make_environment(place: Path, name: str, python: Path) -> Path:
    """A fresh virtual environment without pip; its Python."""
    run(python, "-m", "venv", "--without-pip", place / name, cwd=place)
    return place / name / "bin" / "python"


@pytest.fixture(scope="module")
def source(place: Path) -> Path:
    """A copy of the checkout, without what is made of it."""
    return Path(shutil.copytree(_ROOT, place / "source", ignore=_IGNORED))


@pytest.fixture(scope="module")
def sdist(place: Path, packages: Path, source: Path) -> Path:
    """The source archive of the copy."""
    builder = make_environment(place, "builder", Path(sys.executable))
    offline = ("--quiet", "--no-index", "--find-links", packages)
    pip(builder, "install", *offline, *_PROJECT["build-system"]["requires"], cwd=place)
    run(builder, "-c", _SDIST, place / "dist", cwd=source)
    return place / "dist" / f"daxmend-{_VERSION}.tar.gz"


def build(place: Path, packages: Path, sdist: Path, to: str, **environment: str) -> Path:
    """The wheel of the source archive, built as pip does: in an environment of its own."""
    words = ("wheel", "--quiet", "--no-deps", "--no-index", "--find-links", packages)
    run(sys.executable, "-m", "pip", *words, "-w", place / to, sdist, cwd=place, **environment)
    (wheel,) = (place / to).iterdir()
    return wheel


@pytest.fixture(scope="module")
def wheel(place: Path, packages: Path, sdist: Path) -> Path:
    """The wheel of the source archive."""
    return build(place, packages, sdist, "wheel")


def install(place: Path, wheel: Path, version: str, name: str, *, oldest: bool = False) -> Path:
    """The programs of a fresh environment with the wheel, and nothing but what that asks for."""
    python = _PYTHONS.get(version, Path(sys.executable))
    asked = _PROJECT["project"]["dependencies"]
    if oldest:
        asked = [each.replace(">=", "==") for each in asked]
    packages = fetch(place, python, asked, "oldest" if oldest else "packages")
    fresh = make_environment(place, name, python)
    offline = ("--quiet", "--no-index", "--find-links", packages)
    pip(fresh, "install", *offline, wheel, cwd=place)
    return fresh.parent


def test_the_source_archive_has_all_that_is_built_from_and_read(sdist: Path, source: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [
        *("LICENSE", "README.md", "pyproject.toml", "setup.py", "run"),
        *(name for top in ("src", "docs", "tests", "benchmarks") for name in files(source, top)),
    ]
    assert [name for name in wanted if name not in names] == []
    assert [name for name in names if name.endswith((".so", ".pyc", ".db"))] == []


def files(source: Path, below: str) -> list[str]:
    """The files below a directory of the copy, by their paths in it, but for what builds made."""
    found = (path for path in (source / below).rglob("*") if path.is_file())
    return [str(path.relative_to(source)) for path in found if ".egg-info/" not in str(path)]


def test_the_wheel_has_what_runs_and_no_more(wheel: Path, source: Path) -> None:
    assert wheel.name.startswith(f"daxmend-{_VERSION}-cp3{_OLDEST}-abi3-linux_")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entries = archive.read(f"daxmend-{_VERSION}.dist-info/entry_points.txt").decode()
    wanted = {
        name.removeprefix("src/")
        for name in files(source, "src")
        if not name.endswith((".c", ".h"))
    }
    found = {name for name in names if name.startswith("daxmend/")}
    assert found == wanted | {"daxmend/_native/_core.abi3.so"}
    assert "daxmend = daxmend.cli:main" in entries
    assert "[pytest11]\ndaxmend = daxmend.testing.plugin" in entries
    pages = {name.rpartition("/")[2] for name in names if "/share/man/" in name}
    assert pages == {path.name for path in (_ROOT / "docs/man").glob("*.[17]")}
    assert {name.partition("/")[0] for name in names} == {
        "daxmend",
        f"daxmend-{_VERSION}.data",
        f"daxmend-{_VERSION}.dist-info",
    }


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_the_one_wheel_runs_on(version: str, place: Path, wheel: Path, fuse: None) -> None:
    if version not in _PYTHONS:
        pytest.skip(f"there is no Python {version} on this machine; found: {', '.join(_PYTHONS)}")
    programs = install(place, wheel, version, f"python{version}")
    work = place / f"work{version}"
    work.mkdir()
    assert str(place) in run(programs / "python", "-c", _IMPORT_ALL, cwd=work)
    path = f"{programs}:{os.environ['PATH']}"
    said = run("sh", _ROOT / ".github/try-wheel.sh", cwd=work, PATH=path, TMPDIR=str(work))
    lines = said.splitlines()
    assert lines[0] == f"daxmend {_VERSION}"
    assert lines[1].startswith(f"Python {version}.")
    if version == [*_PYTHONS][-1]:  # the oldest runs all other tests
        run(programs / "daxmend", "demo", cwd=work, TMPDIR=str(work))


def test_it_runs_with_the_oldest_packages_that_it_asks_for(place: Path, wheel: Path) -> None:
    """They are as old as the oldest Python."""
    if "3.11" not in _PYTHONS:
        pytest.skip("there is no Python 3.11 on this machine")
    programs = install(place, wheel, "3.11", "old", oldest=True)
    path = f"{programs}:{os.environ['PATH']}"
    run(programs / "python", "-c", _IMPORT_ALL, cwd=place)
    run("sh", _ROOT / ".github/try-wheel.sh", cwd=place, PATH=path, TMPDIR=str(place))


@pytest.fixture(scope="module")
def installed(place: Path, wheel: Path) -> Path:
    """The programs of an environment with this Python."""
    return install(place, wheel, "", "installed")


def test_man_finds_the_pages_of_an_environment(installed: Path) -> None:
    if not shutil.which("man"):
        pytest.skip("man is not installed")
    path = f"{installed}:{os.environ['PATH']}"
    for words in (("1", "daxmend"), ("1", "daxmend-repair"), ("7", "daxmend-faulty")):
        found = run("man", "-w", *words, cwd=installed, PATH=path, MANPATH="")
        assert Path(found.strip()).parents[3] == installed.parent


def test_type_checkers_and_pytest_find_what_they_look_for(installed: Path) -> None:
    said = run(
        installed / "python",
        "-c",
        "import importlib.metadata as m, importlib.resources as r\n"
        "print(r.files('daxmend').joinpath('py.typed').is_file())\n"
        "print(r.files('daxmend._native').joinpath('_core.pyi').is_file())\n"
        "print([e.value for e in m.entry_points(group='pytest11') if e.name == 'daxmend'])\n"
        "print(m.version('daxmend'), m.metadata('daxmend')['License-Expression'])\n",
        cwd=installed,
    )
    assert said.splitlines() == [
        "True",
        "True",
        "['daxmend.testing.plugin']",
        f"{_VERSION} {_PROJECT['project']['license']}",
    ]


def test_without_the_header_of_xxhash_python_sums(
    place: Path, packages: Path, sdist: Path, installed: Path
) -> None:
    """The build goes on without it; pools made with one core are read with the other."""
    root = place / "root"
    for entry in Path("/usr/include").iterdir():
        if entry.name not in ("xxhash.h", "xxh3.h"):
            link = root / "usr/include" / entry.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(entry)
    wheel = build(place, packages, sdist, "slow", CFLAGS=f"-isysroot {root}")
    shutil.unpack_archive(wheel, place / "without", "zip")
    slow = {"PYTHONPATH": str(place / "without")}
    command = installed / "daxmend"
    assert "AVX2                   unknown" in run(command, "--version", cwd=place, **slow)
    assert "AVX2                   unknown" not in run(command, "--version", cwd=place)
    run(command, "create", "summed.pool", "--size", "16M", cwd=place)
    assert "whole" in run(command, "check", "summed.pool", cwd=place, **slow)
