"""The rule that one of some keys has signed a version, verified by the registry itself over the bundle that it stores."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.manifests import read_manifest
from registry.errors import Invalid, Unavailable
from registry.promotion.policies.keys import public_key
from registry.promotion.question import Bench, Gathered, Question, StandingPolicy
from registry.promotion.rules.read_outcomes import outcome_of
from registry.signatures.models import Signature
from registry.signatures.service import MAX_SIGNATURES
from sdk.errors import Unavailable as Missing
from sdk.errors import VerificationFailed
from sdk.schemas.decisions import RuleOutcome, RuleResult
from sdk.schemas.job_requests import EvaluationRequest
from sdk.schemas.manifest import Manifest
from sdk.signing import PublicKey, find_signer

_LIBRARY = "model_signing"


@dataclass(frozen=True)
class _Signatures:
    """The bundles that a namespace stores for a manifest, and the keys of which one must have made one."""

    policy: StandingPolicy
    ref: str
    manifest: Manifest
    bundles: tuple[str, ...]
    #: Whether signatures can be verified here: an earlier answer doesn't hold once they can.
    verifies: bool

    @property
    def identity(self) -> Any:
        digests = [hashlib.sha256(bundle.encode()).hexdigest() for bundle in self.bundles]
        return [self.policy.digest, self.manifest.digest, digests, self.verifies]

    @property
    def missing(self) -> Sequence[EvaluationRequest]:
        return ()

    @property
    def until_s(self) -> float:
        return inf

    def judge(self, bench: Bench) -> Sequence[RuleOutcome]:
        pems = self.policy.document.signed_by or []
        if not self.verifies:
            message = "the registry can't verify signatures; install on its machine: pip install 'adapterctl[signing]'"
            return [self._found("unknown", message)]
        try:
            keys = [public_key(pem) for pem in pems]
            signer = self._signer(keys)
        except Missing as error:
            raise Unavailable(error.message) from error
        except Invalid as error:
            message = f"a key of the policy can't be read ({error.message}); set the policy again"
            return [self._found("unknown", message)]
        if signer is not None:
            return [self._found("passed", f"signed by {signer.key_id[:12]}")]
        listed = ", ".join(key.key_id[:12] for key in keys)
        there = f"none of its {len(self.bundles)} signatures is" if self.bundles else "it has no signature"
        message = f"{there} by {listed}; sign it with: adapterctl sign {self.ref} --key KEY"
        return [self._found("failed", message)]

    def _signer(self, keys: Sequence[PublicKey]) -> PublicKey | None:
        for bundle in self.bundles:
            try:
                return find_signer(self.manifest, bundle, keys)
            except VerificationFailed:
                continue
        return None

    def _found(self, outcome: RuleResult, message: str) -> RuleOutcome:
        count = len(self.policy.document.signed_by or ())
        rule = f"signed by {'the key' if count == 1 else f'one of {count} keys'} of the policy"
        return outcome_of(self.policy, "signature", rule, outcome, message, numbers={"signatures": len(self.bundles)})


def signature(session: Session, question: Question, policy: StandingPolicy) -> Gathered | None:
    """Read the signatures over the version's manifest that its own namespace stores. Raises Unreadable."""
    if policy.document.signed_by is None or question.digest is None:
        return None
    mine = (Signature.manifest_digest == question.digest, Signature.namespace == question.namespace)
    bundles = session.scalars(select(Signature.bundle).where(*mine).order_by(Signature.key_id).limit(MAX_SIGNATURES))
    return _Signatures(
        policy=policy,
        ref=f"{question.adapter}@v{question.number}",
        manifest=read_manifest(session, question.digest),
        bundles=tuple(bundles),
        verifies=importlib.util.find_spec(_LIBRARY) is not None,
    )
