"""Fixtures of the raw mount: who runs the test, how files are opened, the mount itself."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filemount import Files
from rawmount import (
    BODY_SECONDS,
    ROOT,
    Mounted,
    User,
    abort_mounts,
    call,
    let_everybody_mount,
    ordinary_user,
    take_away,
)
from shadowmount import Shadowed, end_shadow


@pytest.fixture(scope="session")
def fuse() -> None:
    """/dev/fuse, for everybody."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("there is no /dev/fuse")
    let_everybody_mount()


@pytest.fixture(params=["root", "user"])
def user(fuse: None, request: pytest.FixtureRequest) -> User:
    """Who runs the test's body."""
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("the tests do not run as root")
        return ROOT
    if not shutil.which("fusermount3"):
        pytest.skip("fusermount3 is missing: a user cannot mount")
    return ordinary_user()


@pytest.fixture(params=["direct", "cached"])
def open_mode(request: pytest.FixtureRequest) -> str:
    """The mount's `-o open=`."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if request.param == "direct" and release < (6, 6):
        pytest.skip("direct opens can be mapped from Linux 6.6 on")
    return str(request.param)


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """A directory that everybody can read, with the test's C programs."""
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    with tempfile.TemporaryDirectory(prefix="daxmend-programs-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        source = Path(__file__).with_name("mapped.c")
        subprocess.run(
            ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", path / "mapped", source], check=True
        )
        yield path


@pytest.fixture
def base(user: User) -> Iterator[Path]:
    """An empty directory in /tmp that belongs to the user."""
    path = Path(tempfile.mkdtemp(prefix="daxmend-test-", dir="/tmp"))
    path.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(path, user.uid, user.gid)
    yield path
    abort_mounts(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def pool(user: User, open_mode: str, base: Path, programs: Path) -> Iterator[Mounted]:
    """A pool, not yet mounted, and an empty directory for it."""
    mounted = Mounted(base, open_mode, programs)
    try:
        call(mounted.create, user, 20, lambda: None)
        yield mounted
    finally:
        take_away(mounted, user)


@pytest.fixture
def raw(user: User, pool: Mounted) -> Mounted:
    """A mounted pool whose first 64 pages hold `pattern`."""

    def prepare() -> None:
        pool.must_mount()
        pool.fill()

    call(prepare, user, 20, lambda: abort_mounts(pool.base))
    return pool


@pytest.fixture
def file_pool(user: User, open_mode: str, base: Path, programs: Path) -> Iterator[Files]:
    """A pool with an empty file system, not yet mounted, and an empty directory for it."""
    files = Files(base, open_mode, programs)
    try:
        call(files.create, user, 20, lambda: None)
        yield files
    finally:
        take_away(files, user)


@pytest.fixture
def files(user: User, file_pool: Files) -> Files:
    """A mounted file system, empty."""
    call(file_pool.must_mount, user, 20, lambda: abort_mounts(file_pool.base))
    return file_pool


@pytest.fixture
def unmounted_shadow(user: User, open_mode: str, base: Path, programs: Path) -> Iterator[Shadowed]:
    """An empty directory, and an empty one for its shadow."""
    shadow = Shadowed(base, open_mode, programs)
    try:
        call(shadow.create, user, 20, lambda: None)
        yield shadow
    finally:
        end_shadow(shadow, user)


@pytest.fixture
def shadow(user: User, unmounted_shadow: Shadowed) -> Shadowed:
    """The same, mounted."""
    call(unmounted_shadow.must_mount, user, 20, lambda: abort_mounts(unmounted_shadow.base))
    return unmounted_shadow


def _names(mark: pytest.Mark) -> list[str]:
    names = mark.args[0]
    return names.split(",") if isinstance(names, str) else list(names)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What a module says of its tests, unless one of them says it itself.

    `DIAGONAL = True`: as each user and in each mode, but not in all pairs; `OPEN_MODES`: in these.
    """
    marks = metafunc.definition.iter_markers("parametrize")
    chosen = {name for mark in marks for name in _names(mark)}
    parametrize = metafunc.definition.add_marker  # pytest reads it next
    if "open_mode" in chosen or not {"user", "open_mode"} <= set(metafunc.fixturenames):
        return
    if modes := getattr(metafunc.module, "OPEN_MODES", None):
        parametrize(pytest.mark.parametrize("open_mode", modes, indirect=True))
    elif "user" not in chosen and getattr(metafunc.module, "DIAGONAL", False):
        first = "root" if os.geteuid() == 0 else "user"
        pairs = [(first, "cached"), ("user", "direct")]
        parametrize(pytest.mark.parametrize(("user", "open_mode"), pairs, indirect=True))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the body of a test that has a `user` as that user, in a child that cannot hang."""
    user, base = (pyfuncitem.funcargs.get(name) for name in ("user", "base"))
    if not isinstance(user, User) or not isinstance(base, Path):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    def body() -> None:
        os.chdir(base)
        pyfuncitem.obj(**arguments)

    call(body, user, BODY_SECONDS, lambda: abort_mounts(base))
    return True
