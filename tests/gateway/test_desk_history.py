"""Time travel from a desk: what is restored is streamed again, what came since no longer is."""

from __future__ import annotations

from pathlib import Path

import pytest
import v6kit
from sync_helpers import FAST, eventually, legs_of, without_throttle
from v6kit.errors import StorageError
from v6kit.gateway import SimulatedGateway


async def test_restored_strategies_stream_again(tmp_path: Path):
    """One call gives back yesterday's strategies: lines move to their legs, and the others give theirs up."""
    gateway = SimulatedGateway(20, **({"snapshot_hold": 0.02, "tick_interval": 0.02} | FAST))
    with without_throttle():
        async with await v6kit.open(tmp_path / "lake", "simulated", gateway=gateway) as desk:
            first, second = (legs_of(*condor) for condor in gateway.account.iron_condors[:2])
            await desk.registry.add_strategy(1, first, kind="IRON_CONDOR")
            before = desk.registry.ledger.version
            await desk.registry.remove_strategy(1)
            await desk.registry.add_strategy(2, second, kind="IRON_CONDOR")
            await desk.sync()
            assert desk.streamer.streaming == {leg.conid for leg in second}
            history = desk.history("active_strategies")
            assert await history.restore(before) == desk.registry.ledger.version
            await eventually(lambda: desk.streamer.streaming == {leg.conid for leg in first})
            assert history.blame().filter(column="removed_at")["change"].to_list() == ["RESTORE"] * 8
            with pytest.raises(StorageError, match="position_queue is not restored"):
                await desk.history("position_queue").restore(0)
