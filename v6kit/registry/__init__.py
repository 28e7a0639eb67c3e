"""Which contracts belong to an active strategy, and so must be live."""

from v6kit.registry.registry import OnChange, StrategyRegistry
from v6kit.registry.rows import Amendment, RegistryRow

__all__ = ["Amendment", "OnChange", "RegistryRow", "StrategyRegistry"]
