"""Who is looking at a panel. A panel that nobody sees reads nothing, draws nothing and sends nothing.

A view says that it is seen, repeats it while it stays so, and says when it is hidden. A closed laptop says nothing at
all, so a view that has given no sign for a while counts as gone. That while is counted in breaths of the kernel, not in
seconds: a kernel that computes hears nobody, and must not think that all have left.
"""

from __future__ import annotations

PATIENCE = 6  # breaths, about 30 s; a view gives a sign every 10 s


class Audience:
    """The views of one panel that somebody sees, by the id that each view gave itself."""

    def __init__(self) -> None:
        self._breaths: dict[str, int] = {}

    @property
    def is_there(self) -> bool:
        """Whether anybody looks."""
        return bool(self._breaths)

    def sees(self, view: str) -> None:
        """Note that a view is seen, now."""
        self._breaths[view] = 0

    def leaves(self, view: str) -> None:
        """Note that a view is hidden or gone."""
        self._breaths.pop(view, None)

    def breathe(self) -> None:
        """Let one breath pass; who has been silent for too many of them has left."""
        silent = {view: breaths + 1 for view, breaths in self._breaths.items()}
        self._breaths = {view: breaths for view, breaths in silent.items() if breaths < PATIENCE}
