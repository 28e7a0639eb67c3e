"""The package's face: what importing it costs, what is in it, and the one opt-in for blocking calls."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest
import v6kit
from v6kit.notebook import allow_blocking_ib


def run(code: str) -> str:
    """Run code in a fresh interpreter, warnings as errors; return what it printed."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_is_silent_and_imports_no_large_library():
    """Neither the client library, nor the storage, nor widgets, nor frames."""
    heavy = ["ib_async", "deltalake", "ipywidgets", "anywidget", "polars", "pyarrow", "nest_asyncio", "typer"]
    code = f"import sys, v6kit; print([name for name in {heavy!r} if name in sys.modules])"
    assert run(code) == "[]\n"


def test_importing_touches_no_loop_and_starts_no_thread():
    """Nothing happens before `open`."""
    code = (
        "import asyncio, sys, threading; policy = asyncio.get_event_loop_policy(); import v6kit; v6kit.open; "
        "print(threading.active_count(), asyncio.get_event_loop_policy() is policy, 'nest_asyncio' in sys.modules)"
    )
    assert run(code) == "1 True False\n"


def test_every_public_name_is_there():
    """`dir`, tab completion and `from v6kit import *` name the same things, and each of them works."""
    assert dir(v6kit) == sorted(v6kit.__all__)
    assert list(v6kit.__all__) == sorted(v6kit.__all__, key=lambda name: (name.islower(), name))
    for name in v6kit.__all__:
        assert getattr(v6kit, name) is not None
    space: dict[str, object] = {}
    exec("from v6kit import *", space)  # noqa: S102 - that is what is tested
    assert set(v6kit.__all__) <= space.keys()


def test_its_version_is_that_of_what_is_installed():
    """As everybody asks for it who files a bug."""
    assert v6kit.__version__ == metadata.version("v6kit")


def test_a_name_that_is_not_there_is_an_attribute_error():
    """So that `hasattr` and completion work."""
    with pytest.raises(AttributeError, match="module 'v6kit' has no attribute 'opne'"):
        v6kit.opne  # noqa: B018 - that is what is tested


def test_every_error_is_in_the_face():
    """Whoever catches an error finds it in `v6kit` itself."""
    errors = {name for name, each in vars(v6kit.errors).items() if isinstance(each, type)}
    assert errors <= set(v6kit.__all__)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="refused there, see the next test")
def test_blocking_calls_may_be_allowed():
    """After the opt-in a loop that runs can run another piece of work to its end."""
    code = (
        "import asyncio, warnings, v6kit\n"
        "warnings.simplefilter('ignore')\n"
        "v6kit.allow_blocking_ib()\n"
        "async def cell():\n"
        "    return asyncio.get_event_loop().run_until_complete(asyncio.sleep(0, 'blocked'))\n"
        "print(asyncio.run(cell()))"
    )
    assert run(code) == "blocked\n"


def test_blocking_calls_are_refused_where_they_would_hang(monkeypatch: pytest.MonkeyPatch):
    """Python 3.14: the reason, and what to do instead."""
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(RuntimeError, match=r"breaks asyncio\.timeout .* v6kit\.run_sync"):
        allow_blocking_ib()
