"""What `show` and the page of a version tell of what is only claimed of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sdk.schemas.claims import AboutRecord, ClaimsView
from sdk.schemas.evaluation import is_score
from sdk.schemas.version_facts import held_out_loss, quantised_in_words, trained_facts
from sdk.schemas.version_records import TrainingRecord

#: How many evaluations, scores of each, and parents are shown.
_MOST = 8


def claimed_facts(
    claims: ClaimsView, *, named: Callable[[str], str] = lambda digest: digest[:12], published: bool = False
) -> list[tuple[str, Any]]:
    """Return what is claimed of a version under names for people, each value a text or a number.

    `named` writes the name of a dataset that is known here, by its digest. `published`: anybody may read it, so that the
    addresses of registries are left out.
    """
    first, third = ("another registry", "a third registry") if published else (claims.registry, "")
    facts: list[tuple[str, Any]] = [
        ("claimed by", f"{first} on {claims.at[:10]}, of {claims.about.ref}; {standing(claims)}"),
        ("sent by", claims.created_by),
        *_record(claims.about, named),
    ]
    if (earlier := claims.about.claimed) is not None:
        facts += [
            ("who had it from", f"{third or earlier.registry} on {earlier.at[:10]}, of {earlier.about.ref}"),
            *_record(earlier.about, named),
        ]
    return facts


def standing(claims: ClaimsView) -> str:
    """Return in words what a claim is worth here."""
    if claims.key_id is None:
        return "not verified: nothing is decided by it"
    return f"signed by the key {claims.key_id[:12]}, which this registry listed when it came"


def _record(about: AboutRecord, named: Callable[[str], str]) -> Iterator[tuple[str, Any]]:
    base = about.base
    yield "claimed base", f"{base.id}{'@' + base.revision[:12] if base.revision else ''} ({base.architecture})"
    yield "claimed method", f"{about.method}, base quantised: {quantised_in_words(about.method, about.quantization)}"
    if about.dataset is not None:
        names = [about.dataset_names.get(digest) or named(digest) for digest in about.dataset.digests]
        yield "claimed data", f"{', '.join(names[:_MOST])}, {about.dataset.rows} rows"
    for name, value in trained_facts(TrainingRecord.read(about.training)):
        yield f"claimed {name}", value
    if "loss" in about.metrics:
        yield "claimed train loss", about.metrics["loss"]
    if (losses := held_out_loss(about.metrics)) is not None:
        yield "claimed held-out loss", losses
    for one in about.evaluations[:_MOST]:
        scores = [f"{name} {value:.4g}" for name, value in sorted(one.metrics.items()) if is_score(name)]
        yield (
            "claimed scores",
            f"on {about.dataset_names.get(one.dataset) or named(one.dataset)}: {', '.join(scores[:_MOST])}",
        )
    for parent in about.parents[:_MOST]:
        yield "claimed parent", f"{parent.relation} {parent.ref}"
    if about.job is not None:
        yield "claimed job", f"{about.job.id}, attempt {about.job.attempt}"
    if about.signed_by:
        yield "claimed signatures", ", ".join(key[:12] for key in about.signed_by[:_MOST])
