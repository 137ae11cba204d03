"""A push, from a folder to a version: packed, checked, signed and sent; with the bases and datasets that it needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypedDict

from sdk.api import bases, datasets, versions
from sdk.api.access import TokensAPI
from sdk.api.transport import Transport
from sdk.config import user_path
from sdk.errors import InvalidInput, NotFound, VerificationFailed
from sdk.formats.base_files import CONFIG_FILE
from sdk.formats.dataset_names import no_dataset_name
from sdk.formats.refs import namespace_of
from sdk.given_values import build
from sdk.names import check_name
from sdk.pulling import transfer
from sdk.pulling.cache import Cache
from sdk.pulling.filling import OnTransfer, watching
from sdk.pulling.folder import base_of_pulled
from sdk.pushing import hub
from sdk.pushing.base_folder import ScannedBase, scan_base
from sdk.pushing.claims import FolderClaims, claims_in
from sdk.pushing.given_base import GivenBase, files_here, given_base
from sdk.pushing.pack import pack_adapter, read_origin
from sdk.pushing.signatures import sign_manifest
from sdk.pushing.upload import Uploader
from sdk.pushing.vocabulary import has_tokenizer
from sdk.schemas.artifacts import DatasetRegistration, DatasetView
from sdk.schemas.catalog import BaseRegistration, BaseView, Method, Publication, VersionView
from sdk.schemas.job_requests import BaseChoice
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training import TrainingSpec
from sdk.validation import CheckedData, check_causal, check_options, check_targets

#: The most that tensors' shapes may take in a registration; with more it would exceed the limit for bodies.
_MOST_SHAPES_BYTES = 3_500_000


class PushKeywords(TypedDict, total=False):
    """The fields of `PushOptions` other than the base, as keywords of a function, for type checkers and editors."""

    base_namespace: str | None
    published: bool | None
    method: Method | None
    quantization: QuantizationRecipe | None
    base_revision: str | None
    description: str
    tags: Mapping[str, str] | None
    sign: str | Path | None
    sign_password: str | None
    ask_revision: Callable[[str], str | None] | None
    expand_patterns: bool
    claims: bool


@dataclass(frozen=True)
class PushOptions:
    """What is stated about a pushed adapter, and how to push it; see `Client.push`."""

    #: None: the registered base that the folder's config names.
    base: str | Path | None = None
    #: Whose base is meant by a name that means several: a namespace's, or the published one.
    base_namespace: str | None = None
    published: bool | None = None
    method: Method | None = None
    quantization: QuantizationRecipe | None = None
    base_revision: str | None = None
    description: str = ""
    tags: Mapping[str, str] | None = None
    sign: str | Path | None = None
    sign_password: str | None = field(default=None, repr=False)
    #: Called with the base's id to ask for its commit, if that is stated nowhere.
    ask_revision: Callable[[str], str | None] | None = None
    expand_patterns: bool = False
    #: Whether what a pulled folder tells of its version is sent, to be shown as claimed.
    claims: bool = True


class PushReport(NamedTuple):
    """What a push did."""

    version: VersionView
    #: Whether these bytes were a version already.
    existing: bool
    #: Files of the folder that a version doesn't need, and config keys that were dropped.
    left_out: list[str]
    #: The base that the folder's config names.
    named_base: str | None
    #: Config keys whose expressions were replaced with names.
    expanded: list[str]
    #: How what its folder tells is kept: "claimed", or "signed" by a key that the registry lists; None: it isn't.
    claims: str | None = None
    #: The registry that told it, or why it wasn't sent.
    claimed_by: str | None = None
    claims_left_out: str | None = None


class Pusher:
    """Pushes to one registry."""

    def __init__(self, transport: Transport, cache: Cache, on_transfer: OnTransfer | None) -> None:
        self._transport, self._cache, self._on_transfer = transport, cache, on_transfer
        self.uploader = Uploader(transport, on_transfer)

    # Bases.

    def scan_base(self, folder: str | Path, *, base_id: str | None = None) -> ScannedBase:
        """Fingerprint the base in a folder.

        Raises NotFound, InvalidBase, InvalidInput for a config that is a link out of the folder.
        """
        on_bytes = watching(self._on_transfer, "hashing base", 0)
        found = scan_base(user_path(folder), cache=self._cache, base_id=base_id, on_bytes=on_bytes)
        # The only file whose content is always sent.
        transfer.require_inside(found.folder, CONFIG_FILE)
        return found

    def register_scanned(self, scanned: ScannedBase, *, namespace: str | None, upload: bool = False) -> BaseView:
        """Register a base that was scanned; with `upload` its files go to the registry's storage."""
        body = scanned.registration.model_copy(update={"namespace": namespace})
        if upload:
            sources = {
                file.sha256: transfer.require_inside(scanned.folder, file.path) for file in scanned.manifest.files
            }
            # Without a namespace it is published for all, if the caller may do that.
            payer = namespace or ("*" if self._may_publish_for_all() else None)
            # The registry reads the tensors' shapes from the headers of the files.
            uploaded = self.uploader.upload(sources, "uploading base", payer)
            body = body.model_copy(update={"tensors": {}, "upload": uploaded})
        return self.register_base(body)

    def _may_publish_for_all(self) -> bool:
        grants = TokensAPI(self._transport).whoami().grants
        return any(grant.namespace == "*" and grant.role == "admin" for grant in grants)

    def register_base(self, registration: BaseRegistration) -> BaseView:
        """Register a base. Raises InvalidBase, NotAllowed."""
        if sum(len(name) + 12 * len(shape) + 8 for name, shape in registration.tensors.items()) > _MOST_SHAPES_BYTES:
            # Too long for a body; if the files are uploaded, the registry reads the shapes from them.
            registration = registration.model_copy(update={"tensors": {}})
        return bases.register(self._transport, registration)

    def obtain_base(self, base: GivenBase, namespace: str | None) -> BaseView:
        """Return a base: the one in a folder, which is registered, or a registered one by name."""
        if base.folder is not None:
            return self.register_scanned(self.scan_base(base.folder), namespace=namespace)
        return base.find(self._transport, namespace=namespace)

    def choose_base(
        self, base: GivenBase, namespace: str | None, *, spec: TrainingSpec | None = None, causal: bool = True
    ) -> BaseChoice:
        """Return the base that a job is pinned to: a folder, a registered base, or one of a model hub.

        `causal`: whether the job needs a base that predicts the next token. Raises NotFound; for a base in a folder
        also InvalidBase if it is an encoder although `causal`, InvalidTargets for modules that it doesn't have,
        InvalidInput for other options that it can't be trained with.
        """
        if base.folder is not None:
            scanned = self.scan_base(base.folder)
            if causal:
                check_causal(scanned.registration.config, base=scanned.registration.id)
            if spec is not None:
                found = scanned.registration
                kind = str(found.config.get("model_type", ""))
                check_targets(spec.targets, found.tensors, base=found.id, model_type=kind, exclude=spec.exclude)
                check_options(spec, found.tensors, found.config)
            return BaseChoice.of(self.register_scanned(scanned, namespace=namespace))
        name, _, revision = base.name.partition("@")
        try:
            view = base.called(name).find(self._transport, namespace=namespace)
        except NotFound:
            if base.is_somebodys:
                raise
            if name.count("/") != 1:
                raise no_such_base(base.name) from None
            return BaseChoice(id=name, revision=hub.resolve_commit(name, revision or None))
        if revision and view.revision != revision:
            return BaseChoice(id=name, revision=hub.resolve_commit(name, revision))
        return BaseChoice.of(view)

    def require_base(self, version: VersionView, base: GivenBase) -> None:
        """Raise VerificationFailed unless a version was trained over the weights of `base`."""
        if base.folder is not None:
            scanned = self.scan_base(base.folder).registration
            name, weights = scanned.id, scanned.weights_digest
        else:
            view = base.find(self._transport, namespace=namespace_of(version.adapter) or "-")
            name, weights = view.id, view.weights_digest
        ours = version.base
        if weights != ours.weights_digest:
            raise VerificationFailed(
                f"{version.ref} belongs to {ours.id} (weights {ours.weights_digest[:12]}), not to {name} "
                f"(weights {weights[:12]}); pull a version trained over that base",
                param="base",
            )

    # Datasets.

    def send_data(self, data: CheckedData, namespace: str | None, name: str | None = None) -> DatasetView:
        """Upload and register a dataset that was checked.

        Without a name it is sent only for a job, and which columns that reads as which keys is not recorded here.
        """
        sha256, size = transfer.hash_file(data.path)
        told = name is not None
        if name is None:
            # A file whose name no dataset may have is sent without one, and is found by its digest.
            name = "" if no_dataset_name(data.name) else data.name
        registration = build(
            DatasetRegistration,
            digest=sha256,
            size_bytes=size,
            format=data.format,
            rows=data.rows,
            shape=data.shape if told or data.columns is None else None,
            columns=data.columns if told else None,
            name=name,
            namespace=namespace,
            upload=self.uploader.upload({sha256: data.path}, "uploading dataset", namespace),
        )
        view = datasets.register(self._transport, registration)
        if told and data.columns is None and view.columns is not None:
            view = datasets.register(self._transport, registration.model_copy(update={"native": True}))
        return view

    # Versions.

    def push(self, path: str | Path, adapter: str, options: PushOptions) -> PushReport:
        """Publish an adapter; see `VersionsAPI.push`."""
        check_name(adapter)
        if not hub.is_url(path):
            return self._push_folder(user_path(path), adapter, options)
        with tempfile.TemporaryDirectory() as fetched:
            commit = hub.fetch_adapter(str(path), Path(fetched))
            tagged = replace(options, tags={"hub": commit, **(options.tags or {})})
            return self._push_folder(Path(fetched), adapter, tagged)

    def _push_folder(self, folder: Path, adapter: str, options: PushOptions) -> PushReport:
        named, revision = read_origin(folder)
        if options.base is None and named is None:
            raise InvalidInput(
                f"the config in {folder} names no base on a hub; give the base with --base", param="base"
            )
        base = given_base(options.base or named or "", options.base_namespace, options.published)
        if options.base is None and not base.is_somebodys and (fingerprint := base_of_pulled(folder)) is not None:
            # What was pulled belongs to one base, whatever a base is called where it is pushed.
            base = GivenBase(fingerprint)
        trained_over = self.obtain_base(base, namespace_of(adapter) or "-")
        base_revision = options.base_revision
        if trained_over.revision is None and revision is None and base_revision is None and options.ask_revision:
            base_revision = options.ask_revision(trained_over.id)
        with tempfile.TemporaryDirectory() as staging:
            package = pack_adapter(
                folder,
                base_id=trained_over.id,
                base_revision=trained_over.revision or base_revision,
                base_fingerprint=trained_over.fingerprint,
                staging=Path(staging),
                expand_patterns=options.expand_patterns,
                base_folder=self._files_of(base, trained_over) if has_tokenizer(folder) else None,
            )
            # Before anything is sent, so that a key that can't sign leaves nothing behind.
            signature = sign_manifest(package.manifest, options.sign, password=options.sign_password)
            claims = claims_in(folder, package.manifest.digest) if options.claims else FolderClaims()
            known = options.quantization is not None or options.method == "lora"
            unknown = [*package.unknown, *([] if known else ["quantization"]), "dataset", "training", "libraries"]
            publication = build(
                Publication,
                adapter=adapter,
                upload=self.uploader.upload(package.sources, "uploading adapter", namespace_of(adapter) or "-"),
                manifest=package.manifest,
                lora=package.lora,
                method=options.method,
                quantization=options.quantization,
                description=options.description,
                tags=dict(options.tags or {}),
                unknown=unknown,
                signature=signature,
                claimed=claims.claims,
            )
            published = versions.publish(self._transport, publication)
        return PushReport(
            published.version,
            published.existing,
            package.left_out,
            package.named_base,
            package.expanded,
            published.claims,
            claims.registry,
            claims.left_out,
        )

    def _files_of(self, base: GivenBase, view: BaseView) -> Path | None:
        """Return a folder with a base's files; None if this machine has none."""
        return base.folder or files_here(self._cache, view.fingerprint, view)


def no_such_base(base: str) -> NotFound:
    """Return the error for a base that the registry does not have by this name."""
    hint = f"if it is a folder, write ./{base}" if Path(base).is_dir() else "add it with: adapterctl base add FOLDER"
    return NotFound(f"there is no base {base[:200]!a} in this registry; {hint}", param="base")
