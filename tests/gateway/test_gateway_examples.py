"""The examples in the simulated gateway's docstrings run, and every public class has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest
from v6kit import gateway

MODULES = ["v6kit.gateway", *(f"v6kit.gateway.{each.name}" for each in pkgutil.iter_modules(gateway.__path__))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_say_what_they_print(name: str) -> None:
    """Each example is run as it stands, the one at the entry with a real client."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", gateway.__all__)
def test_every_public_class_has_an_example(name: str) -> None:
    """Whoever looks a class up sees it used."""
    assert ">>> " in (inspect.getdoc(getattr(gateway, name)) or "")
