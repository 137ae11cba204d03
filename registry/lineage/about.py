"""What is told of a version to whoever pulls it, and may be claimed of it in another registry then."""

from __future__ import annotations

from registry.catalog.versions.claims import ClaimedVersions
from registry.catalog.versions.finding import space_of
from registry.catalog.versions.service import Catalog
from registry.datasets.finding import first_names
from registry.db.database import Database
from registry.errors import Invalid
from registry.evaluations.service import EvaluationQuery, Evaluations
from registry.principal import Principal
from registry.signatures.service import Signatures
from sdk.schemas.catalog import KEPT, LoraSize, VersionView
from sdk.schemas.claims import MOST_EVALUATIONS, About, AboutRecord, AboutScores, EarlierClaims
from sdk.schemas.scores import EvaluationView


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
            training=view.training,
            metrics=view.metrics,
            libraries=view.libraries,
            parents=view.parents,
            job=view.job,
            reported=view.reported,
            unknown=view.unknown,
            evaluations=[
                AboutScores(
                    dataset=one.dataset,
                    grader=one.grader,
                    precision=one.precision,
                    metrics=one.metrics,
                    created_at=one.created_at.isoformat(),
                )
                for one in scores
            ],
            signed_by=[one.key_id for one in self._signatures.list(view.digest, who=who)],
            claimed=self._earlier(view, who),
        )

    def _scores(self, view: VersionView, who: Principal) -> list[EvaluationView]:
        """The newest scores that the version's own namespace made, newest first."""
        asked = EvaluationQuery(digest=view.digest, namespace=space_of(view.adapter))
        return list(self._evaluations.list(asked, who=who).items)[-MOST_EVALUATIONS:][::-1]

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
