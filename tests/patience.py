"""How long a test waits for what never comes: it only guards against hanging, so any machine is back long before."""

from __future__ import annotations

DEADLINE = 60.0  # seconds
