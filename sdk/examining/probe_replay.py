"""A version's effect on its base, computed again at the consumer and compared with its record.

The norms of ΔW are computed from the pulled bytes by numpy alone. The predictions on the fixed texts are computed by
transformers and PEFT, in a separate program of the worker.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sdk.api.transport import Transport
from sdk.errors import InvalidBase, InvalidInput, Unavailable, VerificationFailed
from sdk.formats.adapter_files import CONFIG_FILE
from sdk.formats.refs import Ref
from sdk.pulling.cache import Cache
from sdk.pulling.source import Resolved
from sdk.pushing.base_folder import ScannedBase, scan_base
from sdk.pushing.given_base import files_here, registered_base
from sdk.schemas.catalog import VersionView
from sdk.schemas.failures import FailureReason
from sdk.schemas.probe import (
    LogitsReplay,
    NormDiffering,
    ProbeAnswer,
    ProbeReplay,
    ProbeReport,
    ProbeRequest,
    TextDiffering,
    VersionNorms,
    recorded_probe,
    says_probe,
)
from sdk.schemas.probe_records import ProbeRecord
from sdk.schemas.serving import ServedProbe, ServedProbeRecord
from sdk.schemas.wire import read
from sdk.validation import require_adapter
from sdk.worker_program import missing_libraries, require_libraries, run_program

_CHILD = "workers.pipelines.scoring.replay"
_LIBRARIES = ("torch", "transformers", "peft")
#: Loading libraries and a base of a few gigabytes takes a minute from a cold disk.
_TIMEOUT_S = 600.0
_BYTES_PER_S = 20_000_000

#: How much of what differs is recorded, in characters.
_MOST_MESSAGE = 1000
#: How far a replayed logit gap may be from the recorded one, as a fraction of it.
RELATIVE = 1e-3
#: In addition, as a share of the base's largest logit: 64 roundings of float32, or 8 of the 16-bit type used to
#: compute.
#: Seen between float32 and float16 over a tiny Llama: 5.5 of them, and 2 in bfloat16.
ROUNDING = {"float32": 64 * 2.0**-23, "float16": 8 * 2.0**-11, "bfloat16": 8 * 2.0**-8}


def require_probed(version: Resolved) -> None:
    """Raise InvalidInput for a merged model, before its gigabytes are fetched."""
    require_adapter(
        version.ref,
        version.contents.kind,
        f"it has no probe; replay that of its adapter, which is named by: adapterctl lineage {version.ref} --up",
    )


def replay_probe(
    transport: Transport,
    cache: Cache,
    version: VersionView,
    stored: VersionNorms | None,
    adapter: Path,
    *,
    base: Path | None,
    answers: bool = False,
) -> ProbeReplay:
    """Compute norms and probe again for a version whose verified files are in `adapter`; see `VersionsAPI.replay_probe`."""
    from sdk.lora.adapter_config import lora_of
    from sdk.lora.delta_norms import delta_norms, differing
    from sdk.lora.tensors import require_numpy

    require_numpy("replaying a probe", "or verify without --probe")
    scanned = None if base is None else _of_version(base, cache, version)
    if scanned is not None:
        require_libraries(_LIBRARIES, doing="replaying the probe over a base")
    notes: list[str] = []
    # From the version's own config, which is among the verified bytes, not from the registry's record.
    found = delta_norms(adapter, lora_of(json.loads((adapter / CONFIG_FILE).read_bytes())))
    kept = None if stored is None else stored.norms
    if kept is None:
        notes.append("the registry keeps no norms of this version")
    logits, answered = _logits(transport, cache, version, adapter, scanned, notes, answers=answers)
    return ProbeReplay(
        ref=version.ref,
        digest=version.digest,
        norms=found.norms(),
        replaced=found.replaced,
        norms_stored=kept is not None,
        norms_differing=[]
        if kept is None
        else [NormDiffering(**one._asdict()) for one in differing(kept, found.norms())],
        logits=logits,
        notes=notes,
        base=version.base.fingerprint,
        answers=answered,
    )


def require_equal(found: ProbeReplay) -> None:
    """Raise VerificationFailed, which names the first module or text for which a replay differs."""
    if found.norms_differing:
        one = found.norms_differing[0]
        sides = ["no such module" if norm is None else f"norm {norm:.9g}" for norm in (one.found, one.stored)]
        more = _more(len(found.norms_differing) - 1, "modules")
        raise VerificationFailed(
            f"{one.module} of {found.ref}: ΔW has {sides[0]} in the pulled bytes and {sides[1]} in the registry's record{more}; "
            "pull it again, and tell an admin of the registry",
            param="ref",
        )
    if found.logits is not None and found.logits.differing:
        said = found.logits.differing[0]
        more = _more(len(found.logits.differing) - 1, "numbers")
        raise VerificationFailed(
            f"text {said.text} of the probe of {found.ref}: {said.what} is {said.found:.6g} here and {said.recorded:.6g} in the "
            f"record, further apart than {said.allowed:.3g}{more}; see whether the libraries are those of its lineage",
            param="ref",
        )


def _more(count: int, what: str) -> str:
    return f", and {count} more {what} differ" if count else ""


def text_differences(recorded: ProbeReport, found: ProbeReport, dtypes: set[str]) -> Iterator[TextDiffering]:
    """Yield differences larger than rounding explains, given the `dtypes` of the recorded and the local computation.

    KL is about half the variance of the difference of logits: moving each by δ moves it by √(2·KL)·δ + δ²/2 at most.
    """
    rounding = _rounding(recorded, found, dtypes)
    for number, (was, now) in enumerate(zip(recorded.texts, found.texts, strict=True), start=1):
        gap = RELATIVE * was.logit_gap + rounding
        # A record may contain any number: the product of two is infinite at worst, but a power raises.
        kl = 2 * RELATIVE * was.kl + math.sqrt(2) * math.sqrt(was.kl) * rounding + rounding * rounding / 2
        for what, allowed in (("tokens", 0.0), ("logit_gap", gap), ("kl", kl)):
            one, other = float(getattr(was, what)), float(getattr(now, what))
            if not abs(one - other) <= allowed:
                yield TextDiffering.model_validate(
                    {"text": number, "what": what, "recorded": one, "found": other, "allowed": allowed}
                )


def nearest_gap(recorded: ProbeReport, found: ProbeReport, dtypes: set[str]) -> tuple[float, float]:
    """Return the difference of the logit gaps on the text where it comes nearest to what is allowed, and what that is."""
    rounding = _rounding(recorded, found, dtypes)
    gaps = [
        (abs(now.logit_gap - was.logit_gap), RELATIVE * was.logit_gap + rounding)
        for was, now in zip(recorded.texts, found.texts, strict=True)
    ]
    # If nothing is allowed, any difference is as far as it can be.
    return max(gaps, key=lambda gap: gap[0] / gap[1] if gap[1] else math.inf if gap[0] else 0.0)


def _rounding(recorded: ProbeReport, found: ProbeReport, dtypes: set[str]) -> float:
    """How far rounding moves a logit."""
    share = max((ROUNDING[dtype] for dtype in dtypes if dtype in ROUNDING), default=ROUNDING["float32"])
    return share * max(recorded.largest_logit, found.largest_logit)


def record_of(found: ProbeReplay) -> ProbeRecord:
    """Return what is recorded of a replay, also of one that differs. Raises InvalidInput if predictions were not compared."""
    logits = found.logits
    if logits is None or logits.difference is None or logits.allowed is None:
        why = "; ".join(found.notes) or "the record has none"
        raise InvalidInput(f"nothing was recorded, since no predictions were compared: {why}", param="record")
    ref, message = _numbered(found), ""
    try:
        require_equal(found)
    except VerificationFailed as error:
        message = error.message[:_MOST_MESSAGE]
    numbers = {"difference": logits.difference, "tolerance": logits.allowed}
    return ProbeRecord(
        adapter=ref.adapter, number=ref.number or 0, digest=found.digest, agrees=found.ok, message=message, **numbers
    )


def answers_record_of(found: ProbeReplay) -> ServedProbeRecord | None:
    """Return what is recorded of what a version answers; None if that was not measured, or something differs from its record.

    Raises InvalidInput for a version without a number.
    """
    if found.answers is None or found.base is None or not found.ok:
        return None
    ref = _numbered(found)
    return ServedProbeRecord(
        adapter=ref.adapter, number=ref.number or 0, digest=found.digest, base=found.base, probe=found.answers
    )


def _numbered(found: ProbeReplay) -> Ref:
    ref = Ref.parse(found.ref)
    if ref.number is None:
        raise InvalidInput(
            f"{found.ref} has no number, as in quarantine; release it first: adapterctl release", param="ref"
        )
    return ref


# The base, and the program.


def _of_version(base: Path, cache: Cache, version: VersionView) -> ScannedBase:
    """Return the base in a folder. Raises NotFound, InvalidBase, VerificationFailed if it is not the version's base."""
    scanned, ours = scan_base(base, cache=cache), version.base
    fingerprint = scanned.registration.fingerprint
    if fingerprint != ours.fingerprint:
        raise VerificationFailed(
            f"{version.ref} was made over {ours.id} (fingerprint {ours.fingerprint[:12]}), and {base} is another base "
            f"(fingerprint {fingerprint[:12]}); give the folder of that one",
            param="base",
        )
    return scanned


def _logits(
    transport: Transport,
    cache: Cache,
    version: VersionView,
    adapter: Path,
    scanned: ScannedBase | None,
    notes: list[str],
    *,
    answers: bool,
) -> tuple[LogitsReplay | None, ServedProbe | None]:
    recorded = recorded_probe(version.metrics, version.record)
    none = "none that can be read" if says_probe(version.metrics, version.record) else "none"
    left_out = "predictions were not compared: "
    if scanned is None:
        if recorded is None and not answers:
            notes.append(f"{left_out}the record has {none}; give --base to see them")
            return None, None
        here = files_here(cache, version.base.fingerprint, registered_base(transport, version))
        if here is None:
            notes.append(f"{left_out}base {version.base.id} is not on this machine; say where with --base")
            return None, None
        if missing := missing_libraries(_LIBRARIES):
            notes.append(
                f"{left_out}{' and '.join(missing)} are not installed here; run: pip install 'adapterctl[worker]'"
            )
            return None, None
        scanned = _of_version(here, cache, version)
    answer = _measure(version, adapter, scanned, answers=answers)
    record = version.record
    if recorded is None:
        notes.append(f"the record has {none} to compare these with")
    elif recorded.texts_digest != answer.report.texts_digest:
        notes.append("predictions were not compared with the record, which has those of another release's texts")
        recorded = None
    elif len(recorded.texts) != len(answer.report.texts):
        notes.append("predictions were not compared with the record, which has another number of texts")
        recorded = None
    elif record.device != answer.device:
        notes.append(f"predictions were recorded on {record.device}, and replayed on {answer.device}")
    dtypes = {answer.dtype, str(record.dtype)}
    wrong = [] if recorded is None else list(text_differences(recorded, answer.report, dtypes))
    difference, allowed = (None, None) if recorded is None else nearest_gap(recorded, answer.report, dtypes)
    replayed = LogitsReplay(
        recorded=recorded,
        found=answer.report,
        dtype=answer.dtype,
        device=answer.device,
        differing=wrong,
        difference=difference,
        allowed=allowed,
    )
    return replayed, answer.answers


def _measure(version: VersionView, adapter: Path, scanned: ScannedBase, *, answers: bool) -> ProbeAnswer:
    record = version.record
    with tempfile.TemporaryDirectory() as view:
        # A library might also load any other files in the base's folder.
        for file in scanned.manifest.files:
            (Path(view) / file.path).symlink_to((scanned.folder / file.path).resolve())
        request = ProbeRequest(
            base=view,
            adapter=str(adapter.resolve()),
            quantization=version.quantization,
            dtype=record.dtype,
            held=None if record.base_weights == "native" else record.base_weights,
            labels=None if version.dataset is None else version.dataset.labels,
            pad_token_id=record.pad_token_id,
            seed=record.seed,
            answers=answers,
        )
        timeout_s = _TIMEOUT_S + scanned.registration.size_bytes / _BYTES_PER_S
        late = f"the probe of {version.ref} was not replayed within {timeout_s:.0f} s; try it on a larger machine"
        answer = run_program(_CHILD, asked=request.model_dump_json().encode(), timeout_s=timeout_s, late=late)
    if answer is None:
        raise Unavailable(
            f"the probe of {version.ref} could not be replayed; see whether the worker's libraries can be loaded: "
            "pip install 'adapterctl[worker]'"
        )
    if "refused" in answer:
        return _refused(str(answer["refused"]), str(answer.get("reason")))
    return read(ProbeAnswer, answer)


def _refused(sentence: str, reason: str) -> ProbeAnswer:
    """Raise the error that a refusal of the program means."""
    if reason == FailureReason.BASE:
        raise InvalidBase(sentence, param="base")
    if reason == FailureReason.OOM:
        raise Unavailable(sentence)
    raise VerificationFailed(sentence, param="ref")
