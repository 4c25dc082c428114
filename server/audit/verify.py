"""Checks that the audit log is what was written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pydantic import Field

from taskloom.core.settings import Settings
from taskloom.core.types import Frozen
from taskloom.server.audit.chain import GENESIS, record_digest
from taskloom.server.audit.checkpoints import CheckpointFile
from taskloom.server.audit.keyring import HmacRing, load_hmac_ring, load_public_keys
from taskloom.server.audit.log import MAX_BATCH
from taskloom.server.audit.places import checkpoint_folder, keys_folder
from taskloom.server.audit.reader import AuditReader, open_reader

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

OPEN_SHOWN = 20


class VerifyResult(Frozen):
    """What a verification found. With `verified` false, `reason` says why and `bad_sequence` where (None if the fault is in
    no record, as for a forged checkpoint).

    `open` counts requests that were accepted and have neither `completed` nor `failed`: they run, or the gateway died with
    them. That is no fault of the log. `erased` counts payloads that were kept and are there no more."""

    verified: bool
    records: int
    checkpoints: int
    payloads: int = 0
    erased: int = 0
    open: int = 0
    open_request_ids: tuple[str, ...] = ()
    bad_sequence: int | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()
    duration_s: float = Field(default=0.0, ge=0)


class _Fault(Exception):
    """The first thing that is wrong."""

    def __init__(self, reason: str, sequence: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sequence = sequence


def verify_log(settings: Settings) -> VerifyResult:
    """Opens the log of these settings and verifies it. Raises `NotFoundError` if there is no log and
    `AuditUnavailableError` if it can't be read; a log that was tampered with is a result, not an error."""
    reader = open_reader(settings)
    try:
        folder = keys_folder(settings)
        file = CheckpointFile(checkpoint_folder(settings))
        return verify(reader, file, load_public_keys(folder), load_hmac_ring(folder), settings.audit.checkpoint_every)
    finally:
        reader.close()


def verify(
    reader: AuditReader,
    checkpoints: CheckpointFile,
    keys: Mapping[str, Ed25519PublicKey],
    ring: HmacRing,
    checkpoint_every: int = 0,
) -> VerifyResult:
    """Walks the chain from its first record to the head that was there at the start, a page of records in memory at a time
    (and the checkpoints, and the ids of open requests). Where there is a checkpoint every so many records, a note tells of
    stretches without one."""
    started = time.perf_counter()
    walk = _Walk(ring, checkpoint_every)
    fault: _Fault | None = None
    try:
        # In this order: what a checkpoint says was in the database before it was written.
        walk.checkpoints = dict(_trusted(checkpoints, keys))
        last, digest = reader.head()
        for row in reader.chained(last=last):
            walk.take(row)
        walk.finish(last, digest)
    except _Fault as found:
        fault = found
    return VerifyResult(
        verified=fault is None,
        records=walk.sequence,
        checkpoints=walk.confirmed,
        payloads=walk.payloads,
        erased=walk.missing,
        open=len(walk.open),
        open_request_ids=tuple(request_id for _, _, request_id in list(walk.open)[:OPEN_SHOWN]),
        bad_sequence=fault.sequence if fault else None,
        reason=fault.reason if fault else "",
        notes=walk.notes(),
        duration_s=time.perf_counter() - started,
    )


def _trusted(file: CheckpointFile, keys: Mapping[str, Ed25519PublicKey]) -> Iterator[tuple[int, str]]:
    seen: dict[int, str] = {}
    for line, checkpoint in file.read():
        if checkpoint is None:
            raise _Fault(f"line {line} of {file.path.name} is no checkpoint")
        if checkpoint.key_id not in keys:
            raise _Fault(f"line {line} of {file.path.name} is signed with key {checkpoint.key_id}, which is not among the keys")
        if not checkpoint.signed_by(keys):
            raise _Fault(f"the signature on line {line} of {file.path.name} is wrong (checkpoint at {checkpoint.sequence})")
        if seen.setdefault(checkpoint.sequence, checkpoint.digest) != checkpoint.digest:
            raise _Fault(f"two checkpoints at {checkpoint.sequence} contradict each other", checkpoint.sequence)
        yield checkpoint.sequence, checkpoint.digest


@dataclass
class _Walk:
    """What is known at one point of the chain."""

    ring: HmacRing
    every: int = 0
    checkpoints: Mapping[int, str] = field(default_factory=dict)
    sequence: int = 0
    digest: str = GENESIS
    confirmed: int = 0
    payloads: int = 0
    missing: int = 0
    erasures: int = 0
    unknown_keys: set[str] = field(default_factory=set)
    open: dict[tuple[str, str, str], None] = field(default_factory=dict)

    def take(self, row: Mapping[str, Any]) -> None:
        sequence = row["sequence"]
        if sequence != self.sequence + 1:
            raise _Fault(f"records {self.sequence + 1} to {sequence - 1} are missing", self.sequence + 1)
        if row["previous"] != self.digest:
            raise _Fault(f"record {sequence} does not follow the record before it", sequence)
        if not _same_digest(row):
            raise _Fault(f"record {sequence} was altered: its digest is another", sequence)
        expected = self.checkpoints.get(sequence)
        if expected is not None and expected != row["digest"]:
            raise _Fault(f"record {sequence} is not the one that was checkpointed", sequence)
        self._payload(row)
        self._request(row)
        self.confirmed += expected is not None
        self.sequence, self.digest = sequence, row["digest"]

    def _payload(self, row: Mapping[str, Any]) -> None:
        sequence, content = row["sequence"], row["content"]
        if row["kept"] == "none":
            if content is not None:
                raise _Fault(f"record {sequence} has a payload that was put there later", sequence)
            return
        if content is None:
            self.missing += 1
            return
        self.payloads += 1
        right = self.ring.matches(row["hmac_key_id"], content.encode(), row["kept_hmac"])
        if right is None:
            self.unknown_keys.add(row["hmac_key_id"])
        elif not right:
            raise _Fault(f"the payload of record {sequence} was altered", sequence)

    def _request(self, row: Mapping[str, Any]) -> None:
        request = (row["tenant"], row["principal"], row["request_id"])
        if row["kind"] == "accepted":
            self.open[request] = None
        elif row["kind"] in ("completed", "failed"):
            self.open.pop(request, None)
        elif row["action"] == "audit.erase":
            self.erasures += int(json.loads(row["facts"]).get("payloads", 0))

    def finish(self, last: int, digest: str) -> None:
        """What only shows at the end: the chain is as long as everyone says, and what was erased was erased in the open."""
        newest = max(self.checkpoints, default=0)
        if newest > self.sequence:
            raise _Fault(f"the log ends at {self.sequence}, but a checkpoint was signed at {newest}", self.sequence + 1)
        if (self.sequence, self.digest) != (last, digest or GENESIS):
            raise _Fault(f"the log ends at {self.sequence}, but its head is {last}", self.sequence + 1)
        if self.missing > self.erasures:
            raise _Fault(f"{self.missing} payloads are gone, but only {self.erasures} were erased on record")

    def notes(self) -> tuple[str, ...]:
        found = []
        if unknown := sorted(self.unknown_keys):
            found.append(f"payloads could not be checked: HMAC key {', '.join(unknown)} is not here")
        places = [0, *sorted(self.checkpoints), self.sequence]
        start, end = max(pairwise(places), key=lambda pair: pair[1] - pair[0])
        if self.every and end - start > 2 * self.every + MAX_BATCH:  # one commit has one checkpoint at most
            found.append(
                f"there is no checkpoint from record {start + 1} to {end}, and one is signed every {self.every}: were some "
                "lost? Keep them apart from the database (audit.checkpoint_folder)"
            )
        return tuple(found)


def _same_digest(row: Mapping[str, Any]) -> bool:
    try:
        return record_digest(row) == str(row["digest"])
    except (TypeError, ValueError):  # a value of a type that was never written
        return False
