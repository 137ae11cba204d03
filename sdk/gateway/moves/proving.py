"""Whether a version that was just loaded may be served: its record is fetched and held against the engine's answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from sdk.api import served_probes
from sdk.api.transport import Transport
from sdk.errors import TimedOut, Unavailable
from sdk.gateway.apart import in_thread
from sdk.gateway.engines.engine import EngineRefused, InferenceEngine, OtherBase
from sdk.gateway.moves.probe import BaseScores, is_other_base, prove
from sdk.gateway.moves.versions import Proof
from sdk.lora.compatibility import Verdict, judge
from sdk.lora.compatibility.engines import UnknownVersion
from sdk.lora.compatibility.reading import facts_of_folder
from sdk.schemas.serving import DtypeName, ServedProbe
from sdk.whole_files import write_whole

#: An adapter whose record says less than this has no effect, in nats per token.
_NO_EFFECT = 1e-4
#: So many records are kept for when the registry is away.
_MOST_RECORDS = 256


class ProbeRecords:
    """The records of versions, from the registry; those that were read once are there without it."""

    def __init__(self, transport: Transport, folder: Path) -> None:
        """`folder` belongs to this gateway."""
        self._transport, self._folder = transport, folder

    def get(self, name: str, digest: str) -> ServedProbe | None:
        """Return a version's record; None if it has none. Raises AdapterctlError."""
        file = self._folder / f"{digest}.json"
        try:
            found = served_probes.find(self._transport, f"{name.partition('@')[0]}@sha256:{digest}")
        except (Unavailable, TimedOut):
            with suppress(OSError, ValidationError):
                return ServedProbe.model_validate_json(file.read_bytes())
            raise
        if found is None:
            return None
        # It is only a copy: without it the version waits for the registry.
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(file, found.probe.model_dump_json(), durable=False, mode=0o600)
            self._drop_oldest()
        return found.probe

    def _drop_oldest(self) -> None:
        files = sorted(self._folder.glob("*.json"), key=os.path.getmtime)
        for each in files[: max(0, len(files) - _MOST_RECORDS)]:
            each.unlink(missing_ok=True)


class Proving:
    """Proves versions by their records."""

    def __init__(
        self, records: Callable[[str, str], ServedProbe | None], *, unprobed: bool, dtype: DtypeName | None = None
    ) -> None:
        """`records` returns a version's record by name and digest, in a thread. With `unprobed` a version without one is served.
        `dtype` is what the engine computes in; None: not known.
        """
        self._records, self._unprobed, self._dtype = records, unprobed, dtype

    async def __call__(self, engine: InferenceEngine, name: str, digest: str) -> Proof:
        """Return what the engine's answers prove. Raises EngineRefused, AdapterctlError, httpx.HTTPError."""
        record = await in_thread(lambda: self._records(name, digest))
        if record is None:
            if self._unprobed:
                return Proof.UNPROBED
            raise EngineRefused(
                f"nobody has measured what {name} answers, so it can't be proved that the engine serves it; run: "
                f"adapterctl verify {name} --probe --record, or serve it with --unprobed"
            )
        # The base is asked each time: the engine may have been started again with another one.
        verdict = await prove(engine, name, record, held=BaseScores(), dtype=self._dtype)
        if verdict.outcome == "passed":
            return Proof.PASSED
        if verdict.outcome == "failed":
            kind = OtherBase if is_other_base(record, verdict, self._dtype) else EngineRefused
            raise kind(verdict.message)
        if verdict.effect < _NO_EFFECT:
            raise EngineRefused(
                f"by its record {name} has no effect on its base; train it longer, or at a higher learning rate"
            )
        return Proof.UNDECIDABLE


def objection_of(engine: str, version: str | None, base: Path | None) -> Callable[[Path], str | None] | None:
    """Return what says why an engine, as `compat` calls it, can't serve an adapter's folder; None for our own engine, which knows
    itself. `base` is the base's folder, where it is known.
    """
    if engine == "local":
        return None

    def objection(folder: Path) -> str | None:
        facts = facts_of_folder(folder, base)
        try:
            found = judge(facts, engine, version)
        except UnknownVersion:
            found = judge(facts, engine)
        if found.answer is not Verdict.NO:
            return None
        reasons = [each.reason for each in found.findings if each.verdict is Verdict.NO]
        return f"{engine} can't serve it: {'; '.join(reasons)}; see: adapterctl compat REF --engine {engine}"

    return objection
