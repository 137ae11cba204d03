"""The client: every operation on a registry, over whichever transport.

>>> import tempfile
>>> client = Client(f"local:{tempfile.mkdtemp()}")
>>> client.adapters()
[]
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sdk import config, transfer
from sdk.api.access import PeopleClient
from sdk.api.delivery import DeliveryClient
from sdk.api.files import OnTransfer
from sdk.api.jobs import TrackingClient
from sdk.api.removal import RemovalClient
from sdk.api.transport import Transport
from sdk.config import user_path
from sdk.errors import InvalidInput, NotFound, VerificationFailed
from sdk.formats.base_files import CONFIG_FILE
from sdk.formats.refs import is_folder, looks_like_digest, namespace_of
from sdk.job_options import checkpoint_policy, checkpoint_ref, needs_of, parse_duration
from sdk.objects import Job, Version
from sdk.pulling.cache import Cache
from sdk.pushing import hub
from sdk.pushing.base_folder import ScannedBase, scan_base
from sdk.pushing.import_folders import Imported, push_tree
from sdk.pushing.pack import pack_adapter, read_origin
from sdk.schemas.artifacts import DatasetRegistration, DatasetView
from sdk.schemas.catalog import (
    BaseFix,
    BaseRegistration,
    BaseSelector,
    BaseView,
    Method,
    Publication,
    Published,
    VersionView,
)
from sdk.schemas.evaluation import EvaluationSpec, MergeSpec
from sdk.schemas.jobs import (
    BaseChoice,
    EvaluationRequest,
    EvaluationTarget,
    JobSubmission,
    JobView,
    MergeRequest,
    TrainingRequest,
)
from sdk.schemas.training import QuantizationRecipe, TrainingSpec
from sdk.validation import (
    CheckedData,
    build,
    check_data,
    check_data_name,
    check_name,
    check_targets,
    parse_ref,
    segment,
)

#: A registration with the shapes of more tensors would be longer than the body that a registry takes.
_MOST_SHAPES_BYTES = 3_500_000


class PushReport(NamedTuple):
    """What a push did."""

    version: VersionView
    #: Whether the same bytes were there already.
    existing: bool
    #: Files of the folder that a version doesn't need, and config keys that were dropped.
    left_out: list[str]
    #: The base that the folder's config names.
    named_base: str | None
    #: Config keys whose expressions were written as the names that they mean.
    expanded: list[str]


class Client(TrackingClient, PeopleClient, RemovalClient, DeliveryClient):
    """A connection to one registry. Cheap to make; nothing is asked before the first call."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        cache: Path | None = None,
        on_transfer: OnTransfer | None = None,
        insecure: bool = False,
    ) -> None:
        self.config = config.load(url, token, insecure=insecure)
        super().__init__(Transport(self.config), Cache(cache), on_transfer)

    # Bases and datasets.

    def add_base(
        self,
        folder: str | Path,
        *,
        id: str | None = None,  # noqa: A002
        upload: bool = False,
        namespace: str | None = None,
    ) -> BaseView:
        """Register the base in a folder; with `upload` its files go to the registry's storage for workers elsewhere.

        It is a base of `namespace` ("-": of names without one, "*": of all). Without one it is for all, where this client
        is an admin of all namespaces, and else of names without one, or of the first in which it may write. Raises NotFound, InvalidBase for a folder without
        safetensors weights, InvalidInput for a link that leads out of it, NotAllowed.
        """
        return self._register(self._scan(folder, id=id), upload=upload, namespace=namespace)

    def _scan(self, folder: str | Path, *, id: str | None = None) -> ScannedBase:  # noqa: A002
        found = scan_base(user_path(folder), cache=self.cache, base_id=id, on_bytes=self._watch("hashing base", None))
        # The one file whose content goes out in any case.
        transfer.require_inside(found.folder, CONFIG_FILE)
        return found

    def _register(self, scanned: ScannedBase, *, namespace: str | None, upload: bool = False) -> BaseView:
        body = scanned.registration.model_copy(update={"namespace": namespace})
        if upload:
            sources = {
                file.sha256: transfer.require_inside(scanned.folder, file.path) for file in scanned.manifest.files
            }
            # Without a namespace it is published for all by whoever may do that.
            payer = namespace or ("*" if self._may_publish_for_all() else None)
            # What their headers say of the tensors, the registry reads there.
            body = body.model_copy(update={"tensors": {}, "upload": self.upload(sources, "uploading base", payer)})
        return self.register_base(body)

    def _may_publish_for_all(self) -> bool:
        grants = self.whoami().grants
        return any(grant.namespace == "*" and grant.role == "admin" for grant in grants)

    def register_base(self, registration: BaseRegistration) -> BaseView:
        """Register a base that was scanned already."""
        if sum(len(name) + 12 * len(shape) + 8 for name, shape in registration.tensors.items()) > _MOST_SHAPES_BYTES:
            # Longer than a body may be; the files themselves say it where they are uploaded.
            registration = registration.model_copy(update={"tensors": {}})
        return self.call("POST", "/bases", BaseView, body=registration, timeout_s=3600)

    def bases(self) -> list[BaseView]:
        """The bases that may be used, the newest first."""
        return list(self.pages("/bases", BaseView))

    def base(self, name: str, *, namespace: str | None = None) -> BaseView:
        """A base by id or fingerprint, with its config: what the name means in `namespace`, or in any that may be seen.

        Raises NotFound, InvalidInput where it means different bases in several namespaces.
        """
        return self.call("GET", "/base", BaseView, params={"name": name, "namespace": namespace})

    def remove_base(self, name: str, *, namespace: str | None = None) -> None:
        """Take a base away from a namespace, by id or fingerprint; its versions stay. Raises NotFound, NotAllowed."""
        self.call("POST", "/base/remove", type(None), body=build(BaseSelector, name=name, namespace=namespace))

    def fix_base(
        self,
        name: str,
        *,
        namespace: str | None = None,
        id: str | None = None,  # noqa: A002
        location: str | None = None,
        forget_files: bool = False,
    ) -> BaseView:
        """Correct what a namespace calls a base, or where it lies ("": nowhere), or let its files be sent anew.

        Raises NotFound, NotAllowed, InvalidInput.
        """
        body = build(BaseFix, name=name, namespace=namespace, id=id, location=location, forget_files=forget_files)
        return self.call("POST", "/base/fix", BaseView, body=body)

    def add_data(self, path: str | Path, *, namespace: str | None = None, name: str | None = None) -> DatasetView:
        """Check and upload a dataset of JSONL, CSV or Parquet, for the readers of a namespace ("-": none).

        Without `namespace` it is the first in which this client may write; without `name` it is called as its file is.
        Raises NotFound, InvalidData with the bad lines, InvalidName for a name that looks like a digest, NotAllowed.
        """
        data = check_data(path)
        return self._send_data(data, namespace, check_data_name(data.name if name is None else name))

    def _send_data(self, data: CheckedData, namespace: str | None, name: str | None = None) -> DatasetView:
        sha256, size = transfer.hash_file(data.path)
        if name is None:
            # A file that is called like a digest is sent all the same, and is found by its own.
            name = "" if looks_like_digest(data.name) else data.name
        body = build(
            DatasetRegistration,
            digest=sha256,
            size_bytes=size,
            format=data.format,
            rows=data.rows,
            shape=data.shape,
            name=name,
            namespace=namespace,
            upload=self.upload({sha256: data.path}, "uploading dataset", namespace),
        )
        return self.call("POST", "/datasets", DatasetView, body=body, timeout_s=600)

    def datasets(self) -> list[DatasetView]:
        """The datasets that may be used, the newest first."""
        return list(self.pages("/datasets", DatasetView))

    def remove_data(self, name: str) -> None:
        """Give a dataset's rows up, by digest or name; what was trained on it still names it.

        Raises NotFound, InvalidInput for a name that datasets of several namespaces have.
        """
        self.call("POST", f"/datasets/{segment(name)}/remove", type(None))

    # Jobs.

    def submit_training(
        self,
        adapter: str,
        *,
        base: str | Path,
        data: str | Path,
        eval_data: str | Path | None = None,
        checkpoint_every: str | None = None,
        from_checkpoint: str | None = None,
        priority: int = 0,
        timeout: float | str | None = None,
        device: Literal["any", "cuda"] | None = None,
        memory: int | None = None,
        idempotency_key: str | None = None,
        **spec: Any,
    ) -> Job:
        """Submit a training and return at once; `spec` are the fields of `TrainingSpec` (rank, alpha, lr, …).

        `base` is a folder (`./base`), the id of a registered base, or a hub name (`org/name@revision`). It writes down
        how far it is `checkpoint_every` "10m", "90s", "50steps" or "never", and goes on `from_checkpoint` "JOB" or
        "JOB@STEP" of a training with the same base, data and spec. One attempt may run for `timeout` seconds, or "2h",
        else for as long as the registry allows by default; it goes to a worker with that `device` and `memory` in bytes free, else to one that the registry reckons to have
        enough. Raises InvalidInput for values and rows, NotFound for files, bases and checkpoints.
        """
        namespace = namespace_of(check_name(adapter)) or "-"
        checked = build(TrainingSpec, **spec)
        terms = {
            "priority": priority,
            "timeout_s": None if timeout is None else parse_duration(timeout),
            "needs": needs_of(device, memory),
        }
        policy, earlier = checkpoint_policy(checkpoint_every), checkpoint_ref(from_checkpoint)
        # Everything is looked at before anything is sent: what is refused leaves nothing behind.
        rows = check_data(data)
        held_out = None if eval_data is None else check_data(eval_data, param="eval_data")
        request = TrainingRequest(
            adapter=adapter,
            base=self._choose_base(base, namespace, targets=checked.targets),
            data=self._send_data(rows, namespace).digest,
            eval_data=None if held_out is None else self._send_data(held_out, namespace).digest,
            spec=checked,
            checkpoint=policy,
            from_checkpoint=earlier,
        )
        return self._submit(request, idempotency_key, **terms)

    def submit_evaluation(
        self,
        refs: str | Iterable[str],
        *,
        data: str | Path,
        priority: int = 0,
        idempotency_key: str | None = None,
        **spec: Any,
    ) -> Job:
        """Submit an evaluation of versions, and of bare bases as `base:NAME`, on the same rows; returns at once."""
        checked = build(EvaluationSpec, **spec)
        rows = check_data(data)
        given = [refs] if isinstance(refs, str) else list(refs)
        if not given:
            raise InvalidInput("an evaluation needs at least one ref or base:NAME", param="refs")
        versions = {ref: parse_ref(ref) for ref in given if not ref.startswith("base:")}
        # A bare base beside them is what their namespace calls so.
        namespace = next((namespace_of(ref.adapter) or "-" for ref in versions.values()), None)
        targets = [
            EvaluationTarget(ref=str(versions[ref]))
            if ref in versions
            else EvaluationTarget(base=self._choose_base(ref.removeprefix("base:"), namespace))
            for ref in given
        ]
        request = build(EvaluationRequest, targets=targets, data=self._send_data(rows, namespace).digest, spec=checked)
        return self._submit(request, idempotency_key, priority=priority)

    def submit_merge(self, ref: str, *, priority: int = 0, idempotency_key: str | None = None, **spec: Any) -> Job:
        """Submit the merge of a version into its base; returns at once. `Job.result().save(DIR)` writes the model."""
        request = MergeRequest(ref=str(parse_ref(ref)), spec=build(MergeSpec, **spec))
        return self._submit(request, idempotency_key, priority=priority)

    def _submit(
        self, request: TrainingRequest | EvaluationRequest | MergeRequest, key: str | None, **terms: Any
    ) -> Job:
        # A key of our own makes a repeated POST harmless.
        headers = {"Idempotency-Key": key or secrets.token_hex(16)}
        submission = build(JobSubmission, request=request, **terms)
        return Job(self.call("POST", "/jobs", JobView, body=submission, headers=headers), self)

    def _registered(self, base: str | Path, namespace: str) -> BaseView:
        """The base that an adapter is pushed over: a folder, which is registered, or one that is registered already."""
        if isinstance(base, Path) or is_folder(base):
            return self._register(self._scan(base), namespace=namespace)
        return self.base(base, namespace=namespace)

    def _choose_base(self, base: str | Path, namespace: str | None, *, targets: str | None = None) -> BaseChoice:
        if isinstance(base, Path) or is_folder(base):
            scanned = self._scan(base)
            if targets is not None:
                check_targets(targets, scanned.registration.tensors, base=scanned.registration.id)
            view = self._register(scanned, namespace=namespace)
            return BaseChoice(id=view.id, revision=view.revision, fingerprint=view.fingerprint)
        name, _, revision = base.partition("@")
        try:
            view = self.base(name, namespace=namespace)
        except NotFound:
            if name.count("/") != 1:
                hint = (
                    f"for a folder write ./{base}" if Path(base).is_dir() else "add it with: adapterctl base add FOLDER"
                )
                raise NotFound(f"there is no base {base[:200]!a} in this registry; {hint}", param="base") from None
            return BaseChoice(id=name, revision=hub.resolve_commit(name, revision or None))
        if revision and view.revision != revision:
            return BaseChoice(id=name, revision=hub.resolve_commit(name, revision))
        return BaseChoice(id=view.id, revision=view.revision, fingerprint=view.fingerprint)

    # Bytes.

    def push(
        self,
        path: str | Path,
        adapter: str,
        *,
        base: str | Path,
        method: Method | None = None,
        quantization: QuantizationRecipe | None = None,
        base_revision: str | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        sign: str | Path | None = None,
        expand_patterns: bool = False,
    ) -> Version:
        """Publish an adapter from a folder that PEFT wrote; waits until it is verified and has its number.

        All that its `adapter_config.json` says is recorded; `method`, `quantization` and `base_revision` are what it can't
        say, and are recorded as unknown where nobody says them. The same bytes again give the existing version. `path` may be
        `hf://org/name@revision`, of a model hub. It is signed with the private key in the PEM file `sign`, or in what
        `ADAPTERCTL_SIGNING_KEY` names. With `expand_patterns` the modules' names are written in place of expressions in its
        config, which are refused unless they are plain. Raises NotFound, InvalidInput, VerificationFailed, NotAllowed, Unavailable.
        """
        report = self.push_with_report(
            path,
            adapter,
            base=base,
            method=method,
            quantization=quantization,
            base_revision=base_revision,
            description=description,
            tags=tags,
            sign=sign,
            expand_patterns=expand_patterns,
        )
        return Version(report.version, self)

    def push_with_report(
        self,
        path: str | Path,
        adapter: str,
        *,
        base: str | Path | None,
        method: Method | None = None,
        quantization: QuantizationRecipe | None = None,
        base_revision: str | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        sign: str | Path | None = None,
        sign_password: str | None = None,
        ask_revision: Callable[[str], str | None] | None = None,
        expand_patterns: bool = False,
    ) -> PushReport:
        """As `push`; also says whether the version existed, and what was left out or is unknown.

        Where `base` is None it is the registered base that the folder's config names. `ask_revision` is asked for the
        base's commit, given the base's id, where nobody says it. What a hub gave is tagged `hub=org/name@commit`.
        """
        check_name(adapter)
        if hub.is_url(path):
            with tempfile.TemporaryDirectory() as fetched:
                commit = hub.fetch_adapter(str(path), Path(fetched))
                return self.push_with_report(
                    fetched,
                    adapter,
                    base=base,
                    method=method,
                    quantization=quantization,
                    base_revision=base_revision,
                    description=description,
                    tags={"hub": commit, **(tags or {})},
                    sign=sign,
                    sign_password=sign_password,
                    ask_revision=ask_revision,
                    expand_patterns=expand_patterns,
                )
        folder = user_path(path)
        named, revision = read_origin(folder)
        if base is None and named is None:
            raise InvalidInput(f"{folder} names no base of a hub; say which it is with --base", param="base")
        trained_over = self._registered(base or named or "", namespace_of(adapter) or "-")
        if trained_over.revision is None and revision is None and base_revision is None and ask_revision is not None:
            base_revision = ask_revision(trained_over.id)
        with tempfile.TemporaryDirectory() as staging:
            package = pack_adapter(
                folder,
                base_id=trained_over.id,
                base_revision=trained_over.revision or base_revision,
                base_fingerprint=trained_over.fingerprint,
                staging=Path(staging),
                expand_patterns=expand_patterns,
            )
            # Before anything is sent: a key that can't sign leaves nothing behind.
            signature = self.signed(package.manifest, sign, password=sign_password)
            known = quantization is not None or method == "lora"
            unknown = [*package.unknown, *([] if known else ["quantization"]), "dataset", "training", "libraries"]
            publication = build(
                Publication,
                adapter=adapter,
                upload=self.upload(package.sources, "uploading adapter", namespace_of(adapter) or "-"),
                manifest=package.manifest,
                lora=package.lora,
                method=method,
                quantization=quantization,
                description=description,
                tags=dict(tags or {}),
                unknown=unknown,
                signature=signature,
            )
            published = self.call("POST", "/versions", Published, body=publication, timeout_s=600)
        return PushReport(published.version, published.existing, package.left_out, package.named_base, package.expanded)

    def push_tree(
        self, root: str | Path, *, on_folder: Callable[[int, int], None] | None = None, **options: Any
    ) -> list[Imported]:
        """Publish every adapter of a tree of folders; see `sdk.pushing.import_folders.push_tree`, whose options these are."""
        return push_tree(self, user_path(root), on_folder=on_folder, **options)

    def require_base(self, version: Version, base: str | Path) -> None:
        """Raise VerificationFailed unless `version` was trained over the weights of `base`."""
        if isinstance(base, Path) or is_folder(base):
            scanned = self._scan(base).registration
            name, weights = scanned.id, scanned.weights_digest
        else:
            view = self.base(base, namespace=namespace_of(version.info.adapter) or "-")
            name, weights = view.id, view.weights_digest
        ours = version.info.base
        if weights != ours.weights_digest:
            raise VerificationFailed(
                f"{version.ref} belongs to {ours.id} (weights {ours.weights_digest[:12]}), not to {name} "
                f"(weights {weights[:12]}); pull a version over that base",
                param="base",
            )
