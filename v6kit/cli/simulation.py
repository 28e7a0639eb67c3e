"""What the demos play on: what is asked of the simulated account, and its iron condors, which become active."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from v6kit.contracts import Leg
from v6kit.gateway import SimulatedGateway
from v6kit.registry import StrategyRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What the command line asks for.

    Attributes:
        lake: Where the tables go; `None` for a new temporary folder, which is kept.
        positions: In the simulated account.
        strategies: Iron condors to register.
        line_limit: Market data lines of the login.
        seed: Names the simulated market and account.
    """

    lake: Path | None = None
    positions: int
    strategies: int
    line_limit: int
    seed: int = 7

    def condors_of(self, gateway: SimulatedGateway) -> list[list[Leg]]:
        """Return the legs of the iron condors to register, as the account holds them.

        Raises:
            ValueError: The account holds fewer.
        """
        condors = gateway.account.iron_condors
        if self.strategies > len(condors):
            raise ValueError(
                f"--strategies must be at most {len(condors)} with --positions {self.positions}, got "
                f"{self.strategies}: a simulated account of that size holds no more iron condors"
            )
        chosen = condors[: self.strategies]
        return [[Leg.of(each.instrument, each.quantity) for each in condor] for condor in chosen]


async def register(registry: StrategyRegistry, condors: list[list[Leg]]) -> None:
    """Make iron condors active, each a strategy of its own."""
    for number, legs in enumerate(condors, 1):
        await registry.add_strategy(f"condor-{number}", legs, kind="IRON_CONDOR")
