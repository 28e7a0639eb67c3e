"""What the README shows runs as it stands: its Python, its day of the market, and its commands.

Its queries are run by `tests/storage/test_reading_elsewhere.py`.
"""

from __future__ import annotations

import ast
import inspect
import re
import types
from pathlib import Path

import pytest
import typer
from v6kit import SimulatedGateway
from v6kit.cli.app import app
from v6kit.clock import FastClock
from v6kit.gateway import Scenario

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = sorted(set(re.findall(r"(?:^|[`&] ?)(?:uv run )?v6kit ([a-z][^`\n]*)", TEXT, flags=re.MULTILINE)))


@pytest.mark.parametrize("source", BLOCKS, ids=range(len(BLOCKS)))
async def test_a_code_block_of_the_readme_runs(source, tmp_path, monkeypatch):
    """Each block is run like a cell: top-level await, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    code = compile(source, str(README), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = types.FunctionType(code, {"__name__": "readme"})()
    if inspect.iscoroutine(result):
        await result


async def test_the_readme_s_day_can_be_played(tmp_path):
    """Each of its events is known, and names a contract that the market has."""
    (day,) = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
    path = tmp_path / "day.toml"
    path.write_text(day, encoding="utf-8")
    scenario = Scenario.load(path)
    assert [event.action for event in scenario.events] == ["halt", "trade"]
    SimulatedGateway(clock=FastClock(1, scenario.start)).play(path)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_exists_with_its_options(line):
    """What stands in brackets may be left out."""
    name, *arguments = line.replace("[", "").replace("]", "").split()
    command = typer.main.get_command(app).commands[name]
    parser = command.make_parser(command.make_context(name, arguments, resilient_parsing=True))
    parser.ignore_unknown_options = False
    parser.parse_args(arguments)


def test_every_command_is_in_the_readme():
    """None is left to be found by chance."""
    assert {line.split()[0] for line in COMMANDS} == set(typer.main.get_command(app).commands)
