"""What a worker is given is what its job was pinned to, wherever it comes from: the registry, the storage, its own cache."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import small
from support.adapters import digest, save_adapter
from support.people import SEEDS
from support.registries import World

from registry.principal import Role
from sdk.api.transport import Transport
from sdk.client import Client
from sdk.config import load
from sdk.errors import InvalidBase, VerificationFailed
from sdk.schemas.job_requests import (
    BaseChoice,
    CheckpointRef,
    EvaluationRequest,
    EvaluationTarget,
    MergeRequest,
    TrainingRequest,
)
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.work import Assignment, BaseSource, CheckpointSource, TargetSource
from workers.kinds.known import require_pinned
from workers.node.inputs import AttemptInputs
from workers.node.transfers import Transfers
from workers.settings import WorkerSettings


class Liar(Transport):
    """A registry that answers some route otherwise, once it has a lie to tell."""

    lie: Callable[[str, Any], Any] | None = None

    def _send(self, method: str, path: str, **given: Any) -> bytes:
        answer = super()._send(method, path, **given)
        return answer if self.lie is None else json.dumps(self.lie(path, json.loads(answer))).encode()


@pytest.fixture
def registry(people: World) -> Liar:
    """How the node reaches the registry."""
    return Liar(load(people.url, people.token(Role.WORKER)))


@pytest.fixture
def node(registry: Liar, tmp_path: Path) -> Iterator[Client]:
    """The client of a worker with a cache of its own."""
    client = Client(cache=tmp_path / "node-cache", transport=registry)
    yield client
    client.close()


@pytest.fixture
def inputs(node: Client, tmp_path: Path) -> Iterator[AttemptInputs]:
    with AttemptInputs(
        node,
        Transfers(),
        folder=tmp_path / "attempt",
        namespace=None,
        settings=WorkerSettings("node", shared_paths=(str(tmp_path),)),
    ) as inputs:
        yield inputs


def poison(path: Path, content: bytes | None = None) -> None:
    """Put other bytes of the same length where a file of the cache lies, as an older worker may have; times as they were."""
    stat = path.stat()
    path.chmod(0o600)
    path.write_bytes(content or b"\0" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


class TestCache:
    """What lies in a worker's cache under a digest, and is something else."""

    def test_rows_under_a_stranger_s_digest_are_fetched_again(
        self, people: World, node: Client, inputs: AttemptInputs, rows: Path
    ) -> None:
        view = people.writer.datasets.add(rows, namespace="-")
        path = node.cache.blob(view.digest)
        path.parent.mkdir(parents=True)
        path.write_text('{"prompt": "a", "completion": "the attacker\'s"}\n')
        assert inputs.dataset(view.digest).read_bytes() == rows.read_bytes()
        # Also what was hashed before, and touched since.
        poison(path)
        assert inputs.dataset(view.digest).read_bytes() == rows.read_bytes()

    def test_a_version_with_other_bytes_is_fetched_again(
        self, people: World, node: Client, inputs: AttemptInputs, tmp_path: Path
    ) -> None:
        adapter = save_adapter(tmp_path / "adapter", next(SEEDS))
        manifest = people.writer.push(adapter, f"pins-{uuid.uuid4().hex[:8]}", base="tiny").info.manifest
        folder = node.puller.fill_cache(manifest)
        weights = folder / "adapter_model.safetensors"
        poison(weights)
        assert weights.read_bytes() != (adapter / weights.name).read_bytes()
        assert inputs.adapter(manifest) == folder
        assert weights.read_bytes() == (adapter / weights.name).read_bytes()

    def test_weights_in_4_bits_are_kept_by_what_the_files_of_a_base_are(
        self, people: World, node: Client, inputs: AttemptInputs, tmp_path: Path
    ) -> None:
        source = uploaded_base(people, tmp_path)
        # Whatever a registry calls it.
        base = inputs.base(source.model_copy(update={"id": "another"}))
        assert inputs.kept(base) == node.cache.root / "quantized" / str(source.fingerprint)
        with AttemptInputs(
            node, Transfers(), folder=tmp_path, namespace=None, settings=WorkerSettings("node", quantized_cache=False)
        ) as others:
            assert others.kept(base) is None

    def test_a_shared_folder_that_was_changed_is_refused(
        self, people: World, inputs: AttemptInputs, tmp_path: Path
    ) -> None:
        source = uploaded_base(people, tmp_path)
        folder = small.write_base(tmp_path / "shared", value=0.125)
        changed = source.model_copy(update={"location": folder.as_uri(), "manifest": None})
        with pytest.raises(InvalidBase, match="they were changed"):
            inputs.base(changed)


def uploaded_base(people: World, tmp_path: Path) -> BaseSource:
    """A base whose files are in the registry's storage only."""
    folder = small.write_base(tmp_path / f"base-{uuid.uuid4().hex[:8]}", name=uuid.uuid4().hex)
    view = people.admin.bases.add(folder, upload=True)
    shutil.rmtree(folder)
    from registry.jobs.sources import base_source

    with people.services.db.read() as session:
        return base_source(session, BaseChoice.of(view), view.namespace)


class TestAnswers:
    """A registry that names something else than it was asked for by a digest or a number."""

    def test_the_rows_of_another_dataset_are_not_fetched(
        self, people: World, registry: Liar, node: Client, inputs: AttemptInputs, rows: Path, tmp_path: Path
    ) -> None:
        view = people.writer.datasets.add(rows, namespace="-")
        other = tmp_path / "other.jsonl"
        other.write_text('{"prompt": "a", "completion": "the attacker\'s"}\n')
        theirs = people.writer.datasets.locate(people.writer.datasets.add(other, namespace="-").digest)
        registry.lie = lambda _path, _answer: theirs.model_dump()
        with pytest.raises(VerificationFailed, match=f"{theirs.sha256[:12]} instead of {view.digest}"):
            inputs.dataset(view.digest)
        assert not node.cache.blob(view.digest).exists()

    def test_another_version_than_a_ref_means_is_neither_shown_nor_pulled(
        self, people: World, registry: Liar, node: Client, tmp_path: Path
    ) -> None:
        name = f"pins-{uuid.uuid4().hex[:8]}"
        first, second = (
            people.writer.push(save_adapter(tmp_path / str(n), next(SEEDS)), name, base="tiny") for n in range(2)
        )
        people.writer.push(save_adapter(tmp_path / "b", next(SEEDS)), f"{name}-b", base="tiny")
        answer = second.info.model_dump(mode="json")
        registry.lie = lambda path, honest: answer if path == "/resolve" else honest
        for ref in (f"{name}@v1", f"{name}@sha256:{first.digest}", f"{name}@sha256:{first.digest[:12]}", f"{name}-b"):
            for ask in (node.get, node.pull):
                with pytest.raises(VerificationFailed, match="returned another version"):
                    ask(ref)
        assert node.get(name).number == 2


# What a worker is given for a job.

FINGERPRINT, OTHER = digest("tiny: base"), digest("another base")
PINNED = BaseChoice(id="tiny", fingerprint=FINGERPRINT)


def manifest(kind: str = "adapter", fingerprint: str = FINGERPRINT) -> Manifest:
    file = ManifestFile(path="adapter_config.json", size_bytes=1, sha256=digest("file"))
    return Manifest.model_validate({"kind": kind, "base_fingerprint": fingerprint, "files": [file.model_dump()]})


def source(fingerprint: str | None = FINGERPRINT, **changed: Any) -> BaseSource:
    return BaseSource(**{"id": "tiny", "revision": None, "fingerprint": fingerprint, "location": None, **changed})


def target(files: Manifest | None = None, **changed: Any) -> TargetSource:
    files = files or manifest()
    said = {"label": "a@v1", "digest": files.digest, "manifest": files, "base": source(), "quantization": None}
    return TargetSource(**{**said, **changed})


def training(chosen: BaseChoice = PINNED, **changed: Any) -> Assignment:
    request = TrainingRequest(
        adapter="a", base=chosen, data=digest("rows"), from_checkpoint=CheckpointRef(job="earlier")
    )
    return Assignment(**{"job": "j", "attempt": 1, "lease_s": 1.0, "request": request, "base": source(), **changed})


def checkpoint(job: str = "j", **changed: Any) -> CheckpointSource:
    return CheckpointSource(job=job, step=1, manifest=manifest(**{"kind": "checkpoint", **changed}))


def merge(given: TargetSource, ref: str = "a@v1") -> Assignment:
    return Assignment(job="j", attempt=1, lease_s=1.0, request=MergeRequest(ref=ref), targets=[given])


def evaluation(*given: TargetSource) -> Assignment:
    request = EvaluationRequest(
        targets=[EvaluationTarget(ref="a@v1"), EvaluationTarget(base=PINNED)], data=digest("rows")
    )
    return Assignment(job="j", attempt=1, lease_s=1.0, request=request, targets=list(given))


def member(given: TargetSource, pinned: str | None) -> Assignment:
    request = EvaluationRequest(targets=[EvaluationTarget(ref="sweep:s1/4", digest=pinned)], data=digest("rows"))
    return Assignment(job="j", attempt=1, lease_s=1.0, request=request, targets=[given])


BARE = target(label="base:tiny", digest=None, manifest=None)
HUB = BaseChoice(id="org/base", revision="0" * 40)


@pytest.mark.parametrize(
    "given",
    [
        training(),
        training(checkpoint=checkpoint()),
        training(checkpoint=checkpoint("earlier")),
        training(HUB, base=source(None, id="org/base", revision="0" * 40)),
        training(base=source(manifest=manifest("base"))),
        merge(target()),
        merge(target(), f"a@sha256:{manifest().digest}"),
        evaluation(target(), BARE),
        member(target(), manifest().digest),
    ],
)
def test_what_was_asked_for_is_taken(given: Assignment) -> None:
    require_pinned(given)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (training(base=source(OTHER)), "another base"),
        (training(base=source(None)), "another base"),
        (training(HUB, base=source(None, id="org/base", revision="1" * 40)), "another base"),
        (training(base=source(manifest=manifest("base", OTHER))), "the base of another base"),
        (training(base=source(manifest=manifest("adapter"))), "the wrong kind"),
        (training(checkpoint=checkpoint("a stranger's")), "a checkpoint of another job"),
        (training(checkpoint=checkpoint(fingerprint=OTHER)), "the checkpoint of another base"),
        (training(checkpoint=checkpoint(kind="adapter")), "the wrong kind"),
        (merge(target(digest=digest("another"))), "another version of a"),
        (merge(target(), f"a@sha256:{digest('another')}"), "another version of a"),
        (merge(target(manifest(fingerprint=OTHER))), "the adapter of another base"),
        (merge(BARE), "no files of a@v1"),
        (member(target(), digest("another")), "other files than those of sweep:s1/4"),
        (member(target(), None), "other files than those of sweep:s1/4"),
        (member(BARE, manifest().digest), "no files of sweep:s1/4"),
        (member(target(manifest("checkpoint")), manifest("checkpoint").digest), "the wrong kind"),
        (evaluation(target()), "a different number of targets"),
        (evaluation(target(), target()), "an adapter for a bare base"),
        (evaluation(target(), BARE.model_copy(update={"base": source(OTHER)})), "another base"),
    ],
)
def test_what_was_not_asked_for_is_refused(given: Assignment, wrong: str) -> None:
    with pytest.raises(VerificationFailed, match=wrong):
        require_pinned(given)
