"""What `import v6kit` costs a fresh Python, less what starting Python itself does; and what opening panels adds."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from tests.bench.measure import Line, count_at_most, medians, shown, stopwatch, told

ROUNDS = 15
_TARGET = 500  # milliseconds
_CODES = {
    "nothing": "pass",
    "v6kit": "import v6kit",
    "polars": "import polars",
    "desk": "import v6kit; v6kit.open",
    "panels": "import v6kit.panels",
}


def run() -> list[Line]:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> list[Line]:
    taken = await medians({name: lambda code=code: _started(code) for name, code in _CODES.items()}, ROUNDS)  # type: ignore[misc]
    own = {name: seconds - taken["nothing"] for name, seconds in taken.items()}
    return [
        count_at_most(f"import v6kit, milliseconds ({shown(own['v6kit'])})", round(1000 * own["v6kit"]), _TARGET),
        told("python -c 'import v6kit'", taken["v6kit"], "python -c pass", taken["nothing"]),
        told("what a desk needs", own["desk"], "import polars", own["polars"]),
        told("what panels need", own["panels"], "what a desk needs", own["desk"]),
    ]


async def _started(code: str) -> float:
    with stopwatch() as took:
        subprocess.run([sys.executable, "-c", code], check=True)  # noqa: ASYNC221 - nothing else runs here
        return took()
