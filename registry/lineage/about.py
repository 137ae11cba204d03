"""What is told of a version to whoever pulls it, and may be claimed of it in another registry then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from registry.catalog.versions.claims import ClaimedVersions
from registry.catalog.versions.finding import space_of
from registry.catalog.versions.service import Catalog
from registry.datasets.finding import first_names
from registry.db.database import Database
from registry.errors import Invalid
from registry.evaluations.models import Evaluation
from registry.evaluations.service import Evaluations
from registry.evaluations.standing import of_version
from registry.principal import Principal
from registry.signatures.service import Signatures
from sdk.schemas.catalog import KEPT, LoraSize, VersionView
from sdk.schemas.claims import (
    MOST_EVALUATIONS,
    MOST_NAME,
    MOST_PARENTS,
    MOST_SIGNERS,
    About,
    AboutRecord,
    AboutScores,
    EarlierClaims,
)
from sdk.schemas.scores import EvaluationView

#: How many bytes the records of the scores that are told take in all.
_MOST_BYTES = 16 * 1024 * 1024
_T = TypeVar("_T")


class VersionAbouts:
    """The service that tells what is recorded of a version, as far as the caller may read it: each part by its own service."""

    def __init__(
        self,
        db: Database,
        *,
        catalog: Catalog,
        evaluations: Evaluations,
        signatures: Signatures,
        claimed: ClaimedVersions,
    ) -> None:
        self._db = db
        self._catalog, self._evaluations, self._signatures, self._claimed = catalog, evaluations, signatures, claimed

    def about(self, ref: str, *, who: Principal) -> About:
        """Return what is recorded of the version that a ref names now. Raises InvalidName, InvalidRef, NotFound."""
        view = self._catalog.resolve(ref, who=who)
        if view.state == KEPT:
            raise Invalid(f"{view.ref} is not a version; publish it with: adapterctl jobs publish", param="ref")
        scores = self._scores(view, who)
        # Several namespaces may have signatures of the same bytes.
        signers = list(dict.fromkeys(one.key_id for one in self._signatures.list(view.digest, who=who)))
        data = [] if view.dataset is None else view.dataset.digests
        with self._db.read() as session:
            names = first_names(session, {*data, *(one.dataset for one in scores)}, who) if data or scores else {}
        return About(
            ref=view.ref,
            digest=view.digest,
            created_at=view.created_at.isoformat(),
            base=view.base,
            lora=LoraSize(rank=view.lora.rank, alpha=view.lora.alpha, target_modules=view.lora.target_modules),
            method=view.method,
            quantization=view.quantization,
            dataset=view.dataset,
            dataset_names=names,
            training=None if view.training is None else _told(view.training),
            metrics=_told(view.metrics),
            libraries=_told(view.libraries),
            parents=view.parents[:MOST_PARENTS],
            job=view.job,
            reported=view.reported,
            unknown=view.unknown,
            evaluations=[
                AboutScores(
                    dataset=one.dataset,
                    grader=one.grader,
                    precision=one.precision,
                    metrics=_told(one.metrics),
                    created_at=one.created_at.isoformat(),
                )
                for one in scores
            ],
            signed_by=signers[:MOST_SIGNERS],
            claimed=self._earlier(view, who),
        )

    def _scores(self, view: VersionView, who: Principal) -> Sequence[EvaluationView]:
        """The newest scores that the version's own namespace made, newest first, one for each set of conditions."""
        counting = of_version(Evaluation, who, digest=view.digest, namespace=space_of(view.adapter))
        return self._evaluations.newest_of(counting, most=MOST_EVALUATIONS, most_bytes=_MOST_BYTES)[0]

    def _earlier(self, view: VersionView, who: Principal) -> EarlierClaims | None:
        """What is claimed of it here: by the first registry that told of it, if it went through several."""
        claims = self._claimed.of(view, who=who)
        if claims is None:
            return None
        if claims.about.claimed is not None:
            # Whether its key is listed there is what the registry between has said, and nobody here knows.
            return claims.about.claimed.model_copy(update={"key_id": None})
        record = AboutRecord.model_validate({name: getattr(claims.about, name) for name in AboutRecord.model_fields})
        return EarlierClaims(registry=claims.registry, at=claims.at, about=record, key_id=claims.key_id)


def _told(named: Mapping[str, _T]) -> dict[str, _T]:
    """What can be told of values by name: whoever publishes may choose longer names than a claim has."""
    return {name: value for name, value in named.items() if len(name) <= MOST_NAME}
