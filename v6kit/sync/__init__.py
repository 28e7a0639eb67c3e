"""Hybrid sync: streams for what is active, the queue for everything else."""

from v6kit.sync.lineup import MINIMUM_HOLD_SECONDS, Standing
from v6kit.sync.policy import Candidate, Policy, check_policy, default_policy
from v6kit.sync.report import CycleReport
from v6kit.sync.streamer import PositionStreamer
from v6kit.sync.worker import QueueWorker

__all__ = [
    "MINIMUM_HOLD_SECONDS",
    "Candidate",
    "CycleReport",
    "Policy",
    "PositionStreamer",
    "QueueWorker",
    "Standing",
    "check_policy",
    "default_policy",
]
