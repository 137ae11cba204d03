"""The client's side of pulls: a version's folder, or what a pull would do, or a proof of what lies here already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdk.api.signatures import SignatureClient
from sdk.config import user_path
from sdk.pulling.puller import Pulled, Puller, PullPlan, check_signed
from sdk.pulling.source import Resolved, Signature, read_version
from sdk.schemas.catalog import VersionView
from sdk.validation import parse_ref

if TYPE_CHECKING:
    from sdk.pulling.ranges import Location
    from sdk.schemas.manifest import Manifest


class DeliveryClient(SignatureClient):
    """The part of a client that delivers versions."""

    def pull(
        self,
        ref: str,
        to: str | Path | None = None,
        *,
        offline: bool = False,
        frozen: bool = False,
        base_name: str | None = None,
        verify_with: str | Path | None = None,
    ) -> Path:
        """Fetch a version and return its folder, which PEFT and vLLM load as it is.

        Without `to` it is the cache's own folder, which is not to be edited; with `to` a copy, which replaces an older
        version's files there, and in which `base_name` may take the place of the base's name. `offline` asks the cache
        alone, for a version by number or digest; `frozen` takes no ref that may move; `verify_with` is the public key of
        who must have signed it. Raises NotFound, InvalidInput, Conflict where `to` holds foreign files,
        VerificationFailed, Unavailable.
        """
        return self.pull_with_report(
            ref, to, offline=offline, frozen=frozen, base_name=base_name, verify_with=verify_with
        ).path

    def pull_with_report(
        self,
        ref: str,
        to: str | Path | None = None,
        *,
        offline: bool = False,
        frozen: bool = False,
        base_name: str | None = None,
        verify_with: str | Path | None = None,
    ) -> Pulled:
        """As `pull`; also says which version it was."""
        return self.puller().pull(
            ref,
            None if to is None else user_path(to),
            offline=offline,
            frozen=frozen,
            base_name=base_name,
            verify_with=None if verify_with is None else user_path(verify_with),
        )

    def plan_pull(self, ref: str, *, offline: bool = False, frozen: bool = False) -> PullPlan:
        """Say which files a pull would give, and which of them are in the cache already."""
        return self.puller().plan(ref, offline=offline, frozen=frozen)

    def puller(self) -> Puller:
        """Return what pulls through this client."""
        url = self._transport.config.url
        return Puller(_ClientDoor(self), self.cache, url, links=self.links, on_transfer=self._on_transfer)

    def verify(self, ref: str, *, verify_with: str | Path | None = None) -> Manifest:
        """Fetch a version and hash the cached copy again; with `verify_with` it must be signed by that public key.

        Raises VerificationFailed.
        """
        version = self.puller().resolve(ref)
        manifest = self.check_cached(version.contents)
        if verify_with is not None:
            signatures = _ClientDoor(self).signatures_of(manifest.digest)
            check_signed(manifest, signatures, user_path(verify_with))
        return manifest


class _ClientDoor:
    """The questions of a pull, asked over a client's own transport."""

    def __init__(self, client: DeliveryClient) -> None:
        self._client = client

    def resolve(self, ref: str) -> Resolved:
        view = self._client.call("GET", "/resolve", VersionView, params={"ref": str(parse_ref(ref))})
        return read_version(view.model_dump(mode="json"))

    def locations(self, digest: str) -> Sequence[Location]:
        return self._client.locate(digest)

    def signatures_of(self, digest: str) -> list[Signature]:
        return [Signature(one.key_id, one.bundle) for one in self._client.signatures(digest)]
