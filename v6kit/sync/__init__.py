"""Hybrid sync: streams for what is active, the queue for everything else."""

from v6kit.sync.report import CycleReport
from v6kit.sync.streamer import PositionStreamer
from v6kit.sync.worker import QueueWorker

__all__ = ["CycleReport", "PositionStreamer", "QueueWorker"]
