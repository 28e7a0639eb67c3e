"""Hybrid sync: streams for what is active, the queue for everything else."""

from v6kit.sync.feed import Feed
from v6kit.sync.freshness import Freshness, Targets
from v6kit.sync.lineup import MINIMUM_HOLD_SECONDS, Standing
from v6kit.sync.policy import Candidate, Policy, check_policy, default_policy
from v6kit.sync.report import CycleReport
from v6kit.sync.streamer import PositionStreamer
from v6kit.sync.worker import QueueWorker
from v6kit.sync.writer import BookWriter

__all__ = [
    "MINIMUM_HOLD_SECONDS",
    "BookWriter",
    "Candidate",
    "CycleReport",
    "Feed",
    "Freshness",
    "Policy",
    "PositionStreamer",
    "QueueWorker",
    "Standing",
    "Targets",
    "check_policy",
    "default_policy",
]
