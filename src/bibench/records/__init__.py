"""Typed result records: what ran, what came out, how long it took. Plain JSON with a schema version."""

from bibench.records.figures import Figure, Figures, Kinds
from bibench.records.pictures import StoredPair, StoredPicture, StoredPictures
from bibench.records.record import (
    SCHEMA_VERSION,
    Absence,
    Environment,
    Record,
    RecordError,
    RunConfig,
    read_record,
)
from bibench.records.results import Results, collector_paused
from bibench.records.score import Score, Status

__all__ = [
    "SCHEMA_VERSION",
    "Absence",
    "Environment",
    "Figure",
    "Figures",
    "Kinds",
    "Record",
    "RecordError",
    "Results",
    "RunConfig",
    "Score",
    "Status",
    "StoredPair",
    "StoredPicture",
    "StoredPictures",
    "collector_paused",
    "read_record",
]
