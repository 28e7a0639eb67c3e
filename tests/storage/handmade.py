"""Delta tables whose log was not written by deltalake: entries as other tools write them, by hand."""

from __future__ import annotations

import json
import struct
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from zmq.utils import z85

START = 1_700_000_000_000  # 2023-11-14 22:13:20 UTC, in milliseconds


def entry(folder: Path, version: int, *actions: dict[str, Any]) -> None:
    """Write one entry of a log."""
    (folder / "_delta_log").mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(action) + "\n" for action in actions)
    (folder / "_delta_log" / f"{version:020}.json").write_text(text)


def info(operation: str, minute: int, **more: Any) -> dict[str, Any]:
    """Return what a commit says of itself, made so many minutes after the start."""
    return {"commitInfo": {"timestamp": START + minute * 60_000, "operation": operation, **more}}


def metadata(columns: dict[str, str], configuration: dict[str, str] | None = None, **physical: str) -> dict[str, Any]:
    """Return a table's description; with `physical` names, by column mapping."""
    fields = [
        {
            "name": name,
            "type": kind,
            "nullable": True,
            "metadata": {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": physical[name]}
            if physical
            else {},
        }
        for number, (name, kind) in enumerate(columns.items(), 1)
    ]
    return {
        "metaData": {
            "id": str(uuid.uuid4()),
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json.dumps({"type": "struct", "fields": fields}),
            "partitionColumns": [],
            "configuration": configuration or {},
            "createdTime": START,
        }
    }


def protocol(reader: int = 1, writer: int = 2, features: list[str] | None = None) -> dict[str, Any]:
    """Return what is needed to read and write a table."""
    named = {"readerFeatures": features, "writerFeatures": features} if features is not None else {}
    return {"protocol": {"minReaderVersion": reader, "minWriterVersion": writer, **named}}


def file(folder: Path, name: str, rows: dict[str, list[Any]], *, stats: bool = True, **more: Any) -> dict[str, Any]:
    """Write a data file, and return the action that adds it."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), folder / name)
    return {
        "add": {
            "path": name,
            "partitionValues": {},
            "size": (folder / name).stat().st_size,
            "modificationTime": START,
            "dataChange": True,
            "stats": json.dumps({"numRecords": len(next(iter(rows.values())))}) if stats else None,
            **more,
        }
    }


def removal(name: str) -> dict[str, Any]:
    """Return the action that removes a file."""
    return {"remove": {"path": name, "deletionTimestamp": START, "dataChange": True}}


def deletion_vector(*rows: int) -> dict[str, Any]:
    """Return a deletion vector that stands in the log itself.

    Source: the Delta protocol, "Deletion Vector Format" (a RoaringBitmapArray in the portable format), and the Roaring
    format specification; one array container is enough for a handful of rows.
    """
    bitmap = struct.pack("<IIHHI", 12_346, 1, 0, len(rows) - 1, 16) + b"".join(struct.pack("<H", row) for row in rows)
    content = struct.pack("<iqI", 1_681_511_377, 1, 0) + bitmap
    padded = content + bytes(-len(content) % 4)
    return {
        "storageType": "i",
        "pathOrInlineDv": z85.encode(padded).decode(),
        "sizeInBytes": len(content),
        "cardinality": len(rows),
    }
