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
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from sdk import config, hub, transfer
from sdk.bases import scan_base
from sdk.cache import Cache
from sdk.errors import InvalidData, InvalidInput, InvalidName, InvalidRef, NotFound, VerificationFailed, disk_explained
from sdk.folders import replace_folder, require_free
from sdk.objects import Evaluation, Job, Version
from sdk.packing import pack_adapter
from sdk.schemas import rows
from sdk.schemas.artifacts import BlobSpec, DatasetRegistration, DatasetView, Transfer, UploadRequest, UploadView
from sdk.schemas.catalog import AdapterView, AliasMove, AliasView, BaseView, Publication, Published, VersionView
from sdk.schemas.codes import explain_validation
from sdk.schemas.evaluation import EvaluationSpec, MergeSpec
from sdk.schemas.events import Event
from sdk.schemas.jobs import (
    BaseChoice,
    EvaluationRequest,
    EvaluationTarget,
    EvaluationView,
    JobSubmission,
    JobView,
    MergeRequest,
    TrainingRequest,
)
from sdk.schemas.manifest import Manifest
from sdk.schemas.refs import BadNameError, BadRefError, Ref, is_folder, parse_alias, parse_name, parse_number
from sdk.schemas.training import QuantizationRecipe, TrainingSpec
from sdk.schemas.wire import Wire
from sdk.transport import Transport

T = TypeVar("T")

#: Called with what is being done, the bytes that just passed, and the bytes in all.
OnTransfer = Callable[[str, int, int], None]


class Client:
    """A connection to one registry. Cheap to make; nothing is asked before the first call."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        cache: Path | None = None,
        on_transfer: OnTransfer | None = None,
    ) -> None:
        self.config = config.load(url, token)
        self.cache = Cache(cache)
        self._transport = Transport(self.config)
        self._on_transfer = on_transfer

    # Looking.

    def get(self, ref: str) -> Version:
        """Return the version that `ref` names now. Raises InvalidName, InvalidRef, NotFound."""
        return Version(self.call("GET", "/resolve", VersionView, params={"ref": str(parse_ref(ref))}), self)

    def adapters(self) -> list[AdapterView]:
        """All adapters, by name."""
        found: list[AdapterView] = []
        while True:
            page = self.call(
                "GET", "/adapters", list[AdapterView], params={"after": found[-1].adapter if found else ""}
            )
            found.extend(page)
            if not page:
                return found

    def versions(self, adapter: str) -> list[Version]:
        """The ready versions of an adapter, the newest first."""
        views = self.call("GET", "/versions", list[VersionView], params={"adapter": check_name(adapter)})
        return [Version(view, self) for view in views]

    def evaluations(
        self, *, digest: str | None = None, job: str | None = None, base: str | None = None
    ) -> list[Evaluation]:
        """Scores of a version, of a job, or of a bare base by its fingerprint."""
        params = {"digest": digest, "job": job, "base": base}
        return self.call("GET", "/evaluations", list[EvaluationView], params=params)

    # Aliases.

    def set_alias(
        self, adapter: str, alias: str, version: str | int, *, expect: str | int | None = None, reason: str = ""
    ) -> AliasView:
        """Point an alias at a version; with `expect` only if it names that version now (0: none). Raises Conflict."""
        move = build(
            AliasMove,
            adapter=check_name(adapter),
            alias=_checked(parse_alias, alias),
            number=_number(version),
            expect=None if expect is None else _number(expect),
            reason=reason,
        )
        return self.call("PUT", "/aliases", AliasView, body=move)

    def aliases(self, adapter: str) -> list[AliasView]:
        """The aliases of an adapter."""
        return self.call("GET", "/aliases", list[AliasView], params={"adapter": check_name(adapter)})

    # Bases and datasets.

    def add_base(self, folder: str | Path, *, id: str | None = None, upload: bool = False) -> BaseView:  # noqa: A002
        """Register the base in a folder; with `upload` its files go to the registry's storage for workers elsewhere.

        Raises NotFound, InvalidBase for a folder without safetensors weights.
        """
        scanned = scan_base(Path(folder), cache=self.cache, base_id=id, on_bytes=self._watch("hashing base", None))
        body = scanned.registration
        if upload:
            manifest = scanned.manifest()
            sources = {file.sha256: scanned.folder / file.path for file in manifest.files}
            body = body.model_copy(update={"manifest": manifest, "upload": self.upload(sources, "uploading base")})
        return self.call("POST", "/bases", BaseView, body=body, timeout_s=3600)

    def register_base(self, registration: Wire) -> BaseView:
        """Register a base that was scanned already."""
        return self.call("POST", "/bases", BaseView, body=registration)

    def bases(self) -> list[BaseView]:
        """All bases, the newest first."""
        return self.call("GET", "/bases", list[BaseView])

    def base(self, name: str) -> BaseView:
        """A base by id or fingerprint, with its config."""
        return self.call("GET", "/base", BaseView, params={"name": name})

    def add_data(self, path: str | Path) -> DatasetView:
        """Check and upload a dataset of JSONL, CSV or Parquet. Raises NotFound, InvalidData with the bad lines."""
        file = Path(path).expanduser()
        if not file.is_file():
            raise NotFound(f"there is no file {file}; check the path of the dataset", param="data")
        if file.stat().st_size == 0:
            raise InvalidData(
                f"{file} is empty; give rows of {{prompt, completion}}, {{messages}} or {{text}}", param="data"
            )
        kind, shape, count = _check_rows(file)
        sha256, size = transfer.hash_file(file)
        upload = self.upload({sha256: file}, "uploading dataset")
        body = DatasetRegistration(
            digest=sha256, size_bytes=size, format=kind, rows=count, shape=shape, name=file.name[:200], upload=upload
        )
        return self.call("POST", "/datasets", DatasetView, body=body, timeout_s=600)

    def datasets(self) -> list[DatasetView]:
        """All datasets, the newest first."""
        return self.call("GET", "/datasets", list[DatasetView])

    # Jobs.

    def submit_training(
        self,
        adapter: str,
        *,
        base: str | Path,
        data: str | Path,
        eval_data: str | Path | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
        **spec: Any,
    ) -> Job:
        """Submit a training and return at once; `spec` are the fields of `TrainingSpec` (rank, alpha, lr, …).

        `base` is a folder (`./base`), the id of a registered base, or a hub name (`org/name@revision`). Raises
        InvalidInput for values and rows, NotFound for files and bases.
        """
        check_name(adapter)
        checked = build(TrainingSpec, **spec)
        request = TrainingRequest(
            adapter=adapter,
            base=self._choose_base(base),
            data=self.add_data(data).digest,
            eval_data=None if eval_data is None else self.add_data(eval_data).digest,
            spec=checked,
        )
        return self._submit(request, priority, idempotency_key)

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
        targets = []
        for ref in [refs] if isinstance(refs, str) else refs:
            if ref.startswith("base:"):
                targets.append(EvaluationTarget(base=self._choose_base(ref.removeprefix("base:"))))
            else:
                targets.append(EvaluationTarget(ref=str(parse_ref(ref))))
        if not targets:
            raise InvalidInput("an evaluation needs at least one ref or base:NAME", param="refs")
        request = build(EvaluationRequest, targets=targets, data=self.add_data(data).digest, spec=checked)
        return self._submit(request, priority, idempotency_key)

    def submit_merge(self, ref: str, *, priority: int = 0, idempotency_key: str | None = None, **spec: Any) -> Job:
        """Submit the merge of a version into its base; returns at once. `Job.result().save(DIR)` writes the model."""
        return self._submit(
            MergeRequest(ref=str(parse_ref(ref)), spec=build(MergeSpec, **spec)), priority, idempotency_key
        )

    def _submit(
        self, request: TrainingRequest | EvaluationRequest | MergeRequest, priority: int, key: str | None
    ) -> Job:
        # A key of our own makes a repeated POST harmless.
        headers = {"Idempotency-Key": key or secrets.token_hex(16)}
        submission = build(JobSubmission, request=request, priority=priority)
        return Job(self.call("POST", "/jobs", JobView, body=submission, headers=headers), self)

    def _choose_base(self, base: str | Path) -> BaseChoice:
        if isinstance(base, Path) or is_folder(base):
            view = self.add_base(base)
            return BaseChoice(id=view.id, revision=view.revision, fingerprint=view.fingerprint)
        name, _, revision = base.partition("@")
        try:
            view = self.base(name)
        except NotFound:
            if name.count("/") != 1:
                hint = (
                    f"; for a folder write ./{base}"
                    if Path(base).is_dir()
                    else "; add it with: adapterctl base add FOLDER"
                )
                raise NotFound(f"there is no base {base!r} in this registry{hint}", param="base") from None
            return BaseChoice(id=name, revision=hub.resolve_commit(name, revision or None))
        if revision and view.revision != revision:
            return BaseChoice(id=name, revision=hub.resolve_commit(name, revision))
        return BaseChoice(id=view.id, revision=view.revision, fingerprint=view.fingerprint)

    def job(self, job_id: str) -> Job:
        """Return a job by its id. Raises NotFound."""
        return Job(self.job_view(job_id), self)

    def jobs(self, *, state: str | None = None, limit: int = 50) -> list[Job]:
        """Jobs, the newest first."""
        views = self.call("GET", "/jobs", list[JobView], params={"state": state, "limit": limit})
        return [Job(view, self) for view in views]

    def job_view(self, job_id: str) -> JobView:
        """What the registry says of a job now."""
        return self.call("GET", f"/jobs/{_segment(job_id)}", JobView)

    def job_events(self, job_id: str, *, after: int = 0, wait_s: float = 0) -> list[Event]:
        """Events after a cursor; waits up to `wait_s` for one."""
        params = {"after": after, "wait_s": wait_s}
        return self.call("GET", f"/jobs/{_segment(job_id)}/events", list[Event], params=params, timeout_s=wait_s + 30)

    def cancel_job(self, job_id: str) -> JobView:
        """Cancel a job."""
        return self.call("POST", f"/jobs/{_segment(job_id)}/cancel", JobView)

    # Bytes.

    def push(
        self,
        path: str | Path,
        adapter: str,
        *,
        base: str | Path,
        quantization: QuantizationRecipe | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Version:
        """Publish an adapter from a folder that PEFT wrote; waits until it is verified and has its number.

        The same bytes again give the existing version. Raises NotFound, InvalidInput, VerificationFailed.
        """
        published = self.push_with_report(
            path, adapter, base=base, quantization=quantization, description=description, tags=tags
        )[0]
        return Version(published.version, self)

    def push_with_report(
        self,
        path: str | Path,
        adapter: str,
        *,
        base: str | Path,
        quantization: QuantizationRecipe | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> tuple[Published, list[str]]:
        """As `push`; also says whether the version existed, and what of the folder was left out."""
        check_name(adapter)
        choice = self._choose_base(base)
        if choice.fingerprint is None:
            raise InvalidInput("a push needs a registered base; add it with: adapterctl base add FOLDER", param="base")
        with tempfile.TemporaryDirectory() as staging:
            package = pack_adapter(
                Path(path).expanduser(),
                base_id=choice.id,
                base_revision=choice.revision,
                base_fingerprint=choice.fingerprint,
                staging=Path(staging),
            )
            publication = build(
                Publication,
                adapter=adapter,
                upload=self.upload(package.sources, "uploading adapter"),
                manifest=package.manifest,
                lora=package.lora,
                quantization=quantization,
                description=description,
                tags=dict(tags or {}),
            )
            return self.call("POST", "/versions", Published, body=publication, timeout_s=600), package.left_out

    def pull(self, ref: str, to: str | Path | None = None) -> Path:
        """Fetch a version and return its folder, which PEFT and vLLM load as it is.

        Without `to` it is the cache's own folder, which is not to be edited; with `to` a copy, which replaces an older
        version's files there. Raises NotFound, Conflict where `to` holds foreign files, VerificationFailed.
        """
        target = None if to is None else Path(to).expanduser()
        if target is not None:
            require_free(target)
        version = self.get(ref)
        cached = self.fill_cache(version.info.manifest)
        if target is None:
            return cached
        return replace_folder(cached, target, version.info.manifest)

    def verify(self, ref: str) -> Manifest:
        """Fetch a version and hash the cached copy again. Raises VerificationFailed."""
        manifest = self.get(ref).info.manifest
        folder = self.fill_cache(manifest)
        for file in manifest.files:
            sha256, _ = transfer.hash_file(folder / file.path)
            if sha256 != file.sha256:
                raise VerificationFailed(
                    f"{folder / file.path} was altered in the cache; remove that folder and pull again"
                )
        return manifest

    def require_base(self, version: Version, base: str | Path) -> None:
        """Raise VerificationFailed unless `version` was trained over the weights of `base`."""
        if isinstance(base, Path) or is_folder(base):
            scanned = scan_base(Path(base), cache=self.cache).registration
            name, weights = scanned.id, scanned.weights_digest
        else:
            view = self.base(base)
            name, weights = view.id, view.weights_digest
        ours = version.info.base
        if weights != ours.weights_digest:
            raise VerificationFailed(
                f"{version.ref} belongs to {ours.id} (weights {ours.weights_digest[:12]}), not to {name} "
                f"(weights {weights[:12]}); pull a version over that base",
                param="base",
            )

    def fill_cache(self, manifest: Manifest) -> Path:
        """Return the cache's folder of a manifest's files, fetched if need be; other processes wait meanwhile."""
        folder = self.cache.version(manifest.digest)
        if folder.is_dir():
            return folder
        with disk_explained("filling the cache"), self.cache.lock(manifest.digest):
            if not folder.is_dir():
                with self.cache.new_folder(folder) as partial:
                    self.fetch_manifest(manifest, partial)
        return folder

    def save_manifest(self, manifest: Manifest, to: Path) -> Path:
        """Fetch a manifest's files into the new folder `to`, complete once it has its name. Raises Conflict."""
        target = to.expanduser().absolute()
        require_free(target, replaceable=False)
        with disk_explained(f"writing {target}"):
            if target.is_dir():
                target.rmdir()
            with self.cache.new_folder(target) as partial:
                self.fetch_manifest(manifest, partial)
        return target

    def fetch_manifest(self, manifest: Manifest, folder: Path) -> None:
        """Fetch a manifest's files into an existing folder, each checked against its digest."""
        origins = {origin.sha256: origin for origin in self.locate(manifest.digest)}
        watch = self._watch("fetching", manifest.size_bytes)
        for file in manifest.files:
            transfer.fetch(origins[file.sha256], folder / file.path, watch)

    def locate(self, digest: str) -> list[Transfer]:
        """Say where the files of a manifest are fetched from."""
        return self.call("GET", f"/manifests/{_segment(digest)}/files", list[Transfer])

    def locate_data(self, digest: str) -> Transfer:
        """Say where a dataset is fetched from."""
        return self.call("GET", f"/datasets/{_segment(digest)}/file", Transfer)

    def upload(self, sources: Mapping[str, Path], doing: str) -> str:
        """Send files, by SHA-256, straight to storage; return the upload session's id."""
        blobs = [BlobSpec(sha256=sha256, size_bytes=path.stat().st_size) for sha256, path in sources.items()]
        session = self.call("POST", "/uploads", UploadView, body=UploadRequest(blobs=blobs))
        watch = self._watch(doing, sum(put.size_bytes for put in session.put))
        for put in session.put:
            transfer.send(sources[put.sha256], put, watch)
        return session.id

    def _watch(self, doing: str, total: int | None) -> Callable[[int], None]:
        watcher = self._on_transfer
        if watcher is None:
            return lambda _count: None
        return lambda count: watcher(doing, count, total or 0)

    def call(self, method: str, path: str, reply: type[T], **given: Any) -> T:
        """Call one route of the API; workers claim, report and hand in through it."""
        return self._transport.call(method, path, reply, **given)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


def build(model: Any, **values: Any) -> Any:
    """Build a spec from keywords. Raises InvalidInput that names the field and what is wrong with it."""
    try:
        return model(**values)
    except ValidationError as error:
        message, param = explain_validation(list(error.errors()))
        raise InvalidInput(message, param=param) from None


def parse_ref(ref: str) -> Ref:
    """Parse a ref. Raises InvalidName or InvalidRef."""
    try:
        return Ref.parse(ref)
    except BadRefError as error:
        raise InvalidRef(str(error), param="ref") from None
    except BadNameError as error:
        raise InvalidName(str(error), param="ref") from None


def check_name(name: str) -> str:
    """Return the name of an adapter. Raises InvalidName."""
    return _checked(parse_name, name)


def _checked(parse: Callable[[str], str], text: str) -> str:
    try:
        return parse(text)
    except BadNameError as error:
        raise InvalidName(str(error), param="name") from None


def _number(version: str | int) -> int:
    if isinstance(version, int):
        return version
    if version == "0":
        return 0
    try:
        return parse_number(version)
    except BadRefError as error:
        raise InvalidRef(str(error), param="version") from None


def _segment(text: str) -> str:
    return quote(text, safe="") or "-"


def _check_rows(file: Path) -> tuple[rows.Format, Any, int | None]:
    """Return format, shape and number of rows; Parquet is looked into by the job. Raises InvalidData."""
    kind = rows.detect_format(file)
    if kind == "parquet":
        return kind, None, None
    count = 0
    shape = None
    try:
        for row in rows.read_rows(file):
            count += 1
            shape = row.shape
    except rows.RowsError as error:
        raise InvalidData(f"{file}: {error}", param="data") from None
    return kind, {"prompt": "prompt-completion"}.get(shape or "", shape), count
