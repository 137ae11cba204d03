"""Versions: publishing them with a report, verifying, judging and exporting them."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from sdk.api.versions import VersionRoutes
from sdk.objects import Version

if TYPE_CHECKING:
    from sdk.exporting.hub_folder import ExportedFolder
    from sdk.exporting.running import Exported, ExportedLora
    from sdk.lora.compatibility import Compatibility
    from sdk.objects import Registry
    from sdk.pushing.import_folders import Imported
    from sdk.pushing.pusher import PushKeywords, PushReport
    from sdk.schemas.claims import ClaimsView
    from sdk.schemas.manifest import Manifest
    from sdk.schemas.probe import ProbeReplay
    from sdk.schemas.probe_records import ProbeRecordView
    from sdk.schemas.serving import ServedProbeView


class VersionsAPI(VersionRoutes[Version]):
    """Versions. Called, it lists those of an adapter."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.transport, lambda view: Version(view, registry))
        self._registry = registry

    def push(
        self, path: str | Path, adapter: str, *, base: str | Path | None, **options: Unpack[PushKeywords]
    ) -> PushReport:
        """Like `Client.push`; also says whether the version existed already, what was left out, and what was expanded.

        If `base` is None it is the registered base that the folder's config names; `base_namespace` or `published` among
        the options says whose, if the name means several. A version from a hub is tagged
        `hub=org/name@commit`.
        """
        from sdk.pushing.pusher import PushOptions

        return self._registry.pusher.push(path, adapter, PushOptions(base, **options))

    def push_tree(
        self,
        root: str | Path,
        *,
        base: str | Path | None = None,
        namespace: str | None = None,
        versions: bool = False,
        on_folder: Callable[[int, int], None] | None = None,
        **options: Unpack[PushKeywords],
    ) -> builtins.list[Imported]:
        """Publish every adapter of a tree of folders, each as `push` would.

        `sdk.pushing.import_folders.push_tree` says how `namespace` and `versions` name them, and what stops the rest.
        `on_folder` is called with the number done and the total.
        """
        from sdk.config import user_path
        from sdk.pushing.import_folders import push_tree

        return push_tree(
            partial(self.push, base=base, **options),
            user_path(root),
            namespace=namespace,
            versions=versions,
            on_folder=on_folder,
        )

    def verify(self, ref: str, *, verify_with: str | Path | None = None) -> Manifest:
        """Fetch a version and hash the cached copy again; with `verify_with` it must be signed by that public key.

        Raises VerificationFailed.
        """
        return self._registry.puller.verify(ref, verify_with=verify_with)

    def replay_probe(self, ref: str, *, base: str | Path | None = None, answers: bool = False) -> ProbeReplay:
        """Fetch a version, and compute again what it does to its base.

        That is the norm of ΔW of each module from the pulled bytes, and the predictions on fixed texts over `base`, a
        folder, or over the version's base if that is on this machine. What differs from the record is in
        `norms_differing` and `logits.differing`, and raises nothing. Norms may differ by 1e-6 of their value, a logit
        gap by 1e-3 of its value and the rounding of the type that was computed in. With `answers` the version's and its base's
        answers to fixed prompts are measured too, by which engines are proved to serve it. Raises NotFound, InvalidInput for a
        merged model, VerificationFailed for altered bytes and for another base than the version's, InvalidBase,
        Unavailable if numpy is missing or, with `base`, the worker's libraries.
        """
        from sdk.api.versions import resolve
        from sdk.config import user_path
        from sdk.examining.probe_replay import replay_probe, require_probed
        from sdk.names import parse_ref

        at, puller = self._registry, self._registry.puller
        version = puller.resolve(ref)
        require_probed(version)
        manifest = puller.check_cached(version.contents)
        exact = f"{parse_ref(ref).adapter}@sha256:{manifest.digest}"
        view, folder = resolve(at.transport, exact), puller.fill_cache(manifest)
        over = None if base is None else user_path(base)
        return replay_probe(at.transport, at.cache, view, self.norms(exact), folder, base=over, answers=answers)

    def record_probe(self, found: ProbeReplay) -> ProbeRecordView | None:
        """Record what `replay_probe` found: also if it differs, for policies that ask that another worker has measured it; and
        what the version answers, unless its training has recorded that.

        Each takes the place of what this token has recorded of the same bytes before. None: the version has no record that could
        differ, as of what was pushed, and only its answers were recorded. Raises InvalidInput if there is nothing to record,
        NotFound, NotAllowed.
        """
        from sdk.api import probes, served_probes
        from sdk.examining.probe_replay import answers_record_of, record_of

        transport, answers = self._registry.transport, answers_record_of(found)
        if answers is not None:
            known = served_probes.find(transport, found.ref)
            if known is None or known.source != "training":
                served_probes.record(transport, answers)
            if found.logits is None or found.logits.recorded is None:
                return None
        return probes.record(transport, record_of(found))

    def claimed(self, ref: str) -> ClaimsView | None:
        """Return what the folder that the version was pushed from has told of it, as another registry wrote it; None if nothing.

        Nobody here has checked it, and nothing is decided by it, unless its state is "signed". Raises InvalidName, InvalidRef.
        """
        from sdk.api import versions
        from sdk.names import parse_ref

        return versions.claims(self._registry.transport, str(parse_ref(ref)))

    def served_probe(self, ref: str) -> ServedProbeView:
        """Return what the version that `ref` names now answers to fixed prompts, by which engines are proved to serve it.

        Raises InvalidName, InvalidRef, NotFound also if nobody has measured that.
        """
        from sdk.api import served_probes
        from sdk.names import parse_ref

        return served_probes.get(self._registry.transport, str(parse_ref(ref)))

    def probes(self, ref: str) -> builtins.list[ProbeRecordView]:
        """What replays of the probe of the version that `ref` names now have found, newest first.

        Raises InvalidName, InvalidRef, NotFound.
        """
        from sdk.api import probes
        from sdk.api.versions import resolve
        from sdk.names import parse_ref

        version = resolve(self._registry.transport, str(parse_ref(ref)))
        return [*probes.listed(self._registry.transport, version.adapter, version.number)]

    def require_base(
        self, version: Version, base: str | Path, *, base_namespace: str | None = None, published: bool = False
    ) -> None:
        """Raise VerificationFailed unless `version` was trained over the weights of `base`."""
        from sdk.pushing.given_base import given_base

        self._registry.pusher.require_base(version.info, given_base(base, base_namespace, published))

    def compat(
        self, ref: str | Path, *, engine: str, version: str | None = None, base: str | Path | None = None
    ) -> Compatibility:
        """Whether an engine ("vllm", "sglang", "llama.cpp", "ollama", "peft") can serve a version as it is, and how.

        The rules are those of the engine's `version`, or of the newest that was read. A Path, or "./folder", is a
        folder that PEFT saved, and `base` the folder of its base; the registry isn't asked then. Raises NotFound,
        InvalidInput for an unknown engine or version, and for a merged model.
        """
        from sdk.examining.engine_compatibility import facts_of, judged

        return judged(facts_of(self._registry, ref, base), engine, version)

    def export(
        self,
        target: str | Path,
        output: str | Path,
        *,
        base: str | Path | None = None,
        base_namespace: str | None = None,
        published: bool = False,
        dtype: Literal["f32", "f16", "bf16"] | None = None,
        tokenizer_from: str | Path | None = None,
        modelfile: bool = False,
        ollama_base: str | None = None,
    ) -> Exported:
        """Write an adapter, or a merged model, as the new GGUF file `output`, and read it back, here and without a job.

        `target` is the ref of an adapter's version or of a merged model, the folder of a model, or the folder of an
        adapter, which needs its `base` (a folder or a registered base, of which only the config is read). Without
        `dtype` an adapter is written in f32, and a model in its own type. `tokenizer_from` is a GGUF file of the
        model's base. With `modelfile` an Ollama Modelfile is written beside the file, for an adapter over
        `ollama_base`: a name in Ollama, or the base's GGUF file. Raises InvalidInput and InvalidBase for what such a
        file can't hold exactly, Conflict if `output` exists, NotFound, VerificationFailed, Unavailable without the
        worker's extra.
        """
        from sdk.exporting.targets import export_gguf
        from sdk.pushing.given_base import given_base_if_any

        return export_gguf(
            self._registry,
            target,
            output,
            base=given_base_if_any(base, base_namespace, published),
            dtype=dtype,
            tokenizer_from=tokenizer_from,
            modelfile=modelfile,
            ollama_base=ollama_base,
        )

    def export_folder(
        self,
        ref: str,
        output: str | Path,
        *,
        base_name: str | None = None,
        license: str | None = None,  # noqa: A002 - the word of model cards
    ) -> ExportedFolder:
        """Write an adapter into the new folder `output` as it may be sent to a model hub, and read it back.

        It has the version's files, byte for byte but for the base's name in `adapter_config.json`, which is `base_name` or
        what the base is called at the hub; and a README.md, the model card: what it is, base, data by the names that the
        registry has for them, training, scores, and the licence: `license`, or that of the base's own card. Nothing is sent.
        Raises InvalidInput for a merged model and for a licence or name that no card can have, Conflict if `output` exists,
        NotFound, VerificationFailed.
        """
        from sdk.exporting.hub_folder import export_hub_folder

        return export_hub_folder(self._registry, ref, output, base_name=base_name, license=license)

    def export_plain(
        self,
        target: str | Path,
        output: str | Path,
        *,
        rank: int | None = None,
        base: str | Path | None = None,
        base_namespace: str | None = None,
        published: bool = False,
        dtype: Literal["f32", "f16", "bf16"] | None = None,
    ) -> ExportedLora:
        """Write an adapter into the new folder `output` as a plain LoRA, and read it back, here and without a job.

        It has one α and one rank: `rank`, or the largest of its modules. Modules of a lower rank are padded with zeros,
        those of a higher one are cut to the nearest ΔW; the report says how much of its energy is kept. `target` is a
        version's ref or the folder of an adapter. A DoRA needs `rank` and the weights of its base: those in `base` or,
        for a version, those of its base if they are on this machine. Raises InvalidInput for what no plain LoRA can
        hold, Conflict if `output` exists, NotFound, InvalidBase, VerificationFailed, Unavailable without the worker's
        extra.
        """
        from sdk.exporting.targets import export_plain
        from sdk.pushing.given_base import given_base_if_any

        given = given_base_if_any(base, base_namespace, published)
        return export_plain(self._registry, target, output, rank=rank, base=given, dtype=dtype)
