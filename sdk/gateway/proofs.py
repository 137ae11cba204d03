"""Whether an engine answers as a version does: by the version's record, which is kept for a restart without the registry."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from sdk.api import served_probes
from sdk.api.transport import Transport
from sdk.errors import NotFound, TimedOut, Unavailable
from sdk.gateway.apart import in_thread
from sdk.gateway.engines.engine import Engine, EngineRefused
from sdk.gateway.probe import BaseScores, prove
from sdk.gateway.versions import Proof
from sdk.schemas.serving import DtypeName, ServedProbe
from sdk.schemas.wire import read_json
from sdk.whole_files import write_whole


class Proofs:
    """Those of one gateway; `store` is the folder of the records."""

    def __init__(self, transport: Transport, store: Path, *, unprobed: bool, dtype: DtypeName | None = None) -> None:
        self._transport, self._store, self._unprobed, self._dtype = transport, store, unprobed, dtype
        self._base = BaseScores()

    async def prove(self, engine: Engine, name: str, digest: str) -> Proof:
        """Compare what the engine answers under a name with a version's record. Raises EngineRefused, AdapterctlError, HTTPError."""
        record = await in_thread(lambda: self._record(name, digest))
        if record is None:
            if self._unprobed:
                return Proof.UNPROBED
            raise EngineRefused(
                f"{name} has no record of its answers to prove the engine by; make one with: adapterctl verify {name} --probe "
                "--record, or serve it without: --unprobed"
            )
        verdict = await prove(engine, name, record, held=self._base, dtype=self._dtype)
        if verdict.outcome == "failed":
            raise EngineRefused(f"{name} is not what the engine answers with: {verdict.message}")
        return Proof.PASSED if verdict.outcome == "passed" else Proof.UNDECIDABLE

    def _record(self, name: str, digest: str) -> ServedProbe | None:
        path = self._store / f"{digest}.json"
        try:
            view = served_probes.get(self._transport, f"{name.partition('@')[0]}@sha256:{digest}")
        except NotFound:
            return None
        except (Unavailable, TimedOut):
            try:
                return read_json(ServedProbe, path.read_bytes())
            except (OSError, ValidationError):
                raise
        self._store.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, view.probe.model_dump_json(), durable=False, mode=0o600)
        return view.probe
