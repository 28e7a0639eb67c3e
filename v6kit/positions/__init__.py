"""What is known about every position, when, and how."""

from v6kit.positions.book import PositionBook
from v6kit.positions.merging import merge
from v6kit.positions.rows import BookRow

__all__ = ["BookRow", "PositionBook", "merge"]
