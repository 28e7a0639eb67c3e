"""Buttons: what they do, to which rows, when they may be pressed, and the second click before what destroys."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from v6kit.display import unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One button.

    Attributes:
        name: For Python: `panel.click(name)`.
        label: On the button.
        hint: What it does, in a sentence.
        run: Does it, to the keys that it is given; on the panels' thread.
        applies: Returns the keys that it would be done to now; `None` if it is not about rows.
        ready: Whether it makes sense now, for an action that is not about rows.
        shown: Whether its button stands there at all; one that does not cannot be pressed either.
        question: Asked in place by an action that destroys, of how many rows it is done to; `None` if it does not.
    """

    name: str
    label: str
    hint: str
    run: Callable[[Sequence[str]], Coroutine[Any, Any, object]]
    applies: Callable[[], Sequence[str]] | None = None
    ready: Callable[[], bool] = lambda: True
    shown: Callable[[], bool] = lambda: True
    question: Callable[[int], str] | None = None

    def keys(self) -> Sequence[str]:
        """Return the rows that it would be done to now."""
        return self.applies() if self.applies is not None else ()

    def may_run(self) -> bool:
        """Whether there is something to do."""
        return self.shown() and self.ready() and (self.applies is None or bool(self.applies()))


class Buttons:
    """The buttons of one panel, which of them are at work, and which one waits for its second click.

    Not thread-safe: its panel locks.

    Args:
        actions: In the order in which they stand.
    """

    def __init__(self, actions: Sequence[Action]) -> None:
        self._actions = {action.name: action for action in actions}
        self._busy: set[str] = set()
        self._armed: tuple[str, tuple[str, ...]] | None = None

    def click(self, name: str) -> tuple[Action, tuple[str, ...]] | None:
        """Press a button.

        Returns:
            What to do and to which rows; it counts as at work until `done`. `None` if it asks for a second click, is
            at work, or has nothing to do.

        Raises:
            ValueError: There is no such button.
        """
        action = self._actions.get(name)
        if action is None:
            raise unknown("action", name, self._actions)
        keys = tuple(action.keys())
        armed, self._armed = self._armed, None
        if name in self._busy or not action.may_run():
            return None
        if action.question and armed != (name, keys):
            self._armed = name, keys  # these rows, and no others: if they change meanwhile, it asks again
            return None
        self._busy.add(name)
        return action, keys

    def forget(self) -> None:
        """Take the question back that waits for a second click."""
        self._armed = None

    def done(self, name: str) -> None:
        """Free a button whose work has ended."""
        self._busy.discard(name)

    def draw(self, *, closed: bool) -> list[dict[str, Any]]:
        """Return what the page draws."""
        return [self._draw(action, closed=closed) for action in self._actions.values() if action.shown()]

    def _draw(self, action: Action, *, closed: bool) -> dict[str, Any]:
        keys, busy = tuple(action.keys()), action.name in self._busy
        if self._armed is not None and self._armed[0] == action.name and self._armed[1] != keys:
            self._armed = None
        armed = self._armed is not None and self._armed[0] == action.name
        count = f" {len(keys):,}" if len(keys) > 1 else ""
        return {
            "name": action.name,
            "label": action.question(len(keys)) if armed and action.question else action.label + count,
            "hint": action.hint,
            "off": closed or busy or not action.may_run(),
            "busy": busy,
            "armed": armed,
        }
