"""The README's code runs as it stands."""

from __future__ import annotations

import ast
import inspect
import re
import types
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("source", BLOCKS, ids=range(len(BLOCKS)))
async def test_a_code_block_of_the_readme_runs(source, tmp_path, monkeypatch):
    """Each block is run like a cell: top-level await, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    code = compile(source, str(README), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = types.FunctionType(code, {"__name__": "readme"})()
    if inspect.iscoroutine(result):
        await result
