"""Which contracts belong to an active strategy, and so must be live."""

from v6kit.registry.registry import OnChange, StrategyRegistry
from v6kit.registry.rows import Amendment, RegistryRow
from v6kit.registry.strategy import Strategy

__all__ = ["Amendment", "OnChange", "RegistryRow", "Strategy", "StrategyRegistry"]
