"""The exception tree."""

from __future__ import annotations

import inspect
import re

import pytest
from v6kit import errors
from v6kit.errors import RequestFailedError, V6KitError, VersionUnavailableError

CLASSES = {
    name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__
}


def tree_of_the_docstring() -> dict[str, str]:
    """Return each class's parent, as the module's docstring draws it."""
    parents, path = {}, ["Exception"]
    for line in errors.__doc__.splitlines():
        if found := re.fullmatch(r"( {4}[│├└─ ]*)(\w+Error)\b.*", line):
            depth = (len(found[1]) - 4) // 3
            path[depth + 1 :] = [found[2]]
            parents[found[2]] = path[depth]
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes():
    """What is drawn there is what `except` catches."""
    assert tree_of_the_docstring() == {name: kind.__base__.__name__ for name, kind in CLASSES.items()}


@pytest.mark.parametrize("kind", CLASSES.values(), ids=lambda kind: kind.__name__)
def test_every_error_is_described_and_caught_by_the_base(kind):
    """One `except V6KitError` is enough, and each class says what it means."""
    assert issubclass(kind, V6KitError)
    assert kind.__doc__
    assert str(kind("what to do next")) == "what to do next"


def test_no_error_is_a_value_error():
    """Wrong arguments and failures are told apart."""
    assert not any(issubclass(kind, ValueError | TypeError | OSError) for kind in CLASSES.values())


def test_attributes_are_for_machines():
    """Version and code can be read without parsing text."""
    error = VersionUnavailableError("gone", oldest=3, newest=9)
    assert (error.oldest, error.newest) == (3, 9)
    assert (VersionUnavailableError("gone").oldest, VersionUnavailableError("gone").newest) == (None, None)
    assert RequestFailedError("refused", code=200).code == 200
    assert RequestFailedError("timed out").code is None
