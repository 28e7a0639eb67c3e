"""What ib_async has to say, as our own debug log.

It logs each error code as an error and each position as information on loggers of its own, and without a handler the
errors land in a notebook's cell. The codes are handled and logged here, so nobody needs to read them twice. Only the
objects of our own session are given this logger; those of the user's other clients keep theirs.
"""

from __future__ import annotations

import logging


class WireLog(logging.LoggerAdapter[logging.Logger]):
    """Writes everything at DEBUG to `v6kit.broker.ib_async`."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("v6kit.broker.ib_async"), {})

    def log(self, level: int, msg: object, *args: object, **kwargs: object) -> None:  # noqa: ARG002 - the level is ours
        """Log at DEBUG, whatever ib_async calls it."""
        super().log(logging.DEBUG, msg, *args, **kwargs)  # type: ignore[arg-type]  # handed on as they came
