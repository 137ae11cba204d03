"""Combinations: what is refused when a job is accepted, what it is pinned to, and what of a worker's result is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import calls
from support.adapters import RANK, base_registration, digest, lora_tensors, save_adapter, use_of
from support.people import SEEDS, package, submit
from support.registries import World

from registry.catalog.versions.finding import find_version, parse_ref
from registry.errors import Invalid
from registry.principal import LOCAL, Role
from sdk.client import Client
from sdk.errors import InvalidBase, InvalidInput, NotAllowed, NotFound, VerificationFailed
from sdk.lora.adapter import DeltaW, LoraAdapter
from sdk.pulling.transfer import hash_file
from sdk.schemas.catalog import Parent, Published
from sdk.schemas.combination import CombineParent, CombineReport, CombineRequest
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.manifest import ManifestFile
from sdk.schemas.work import Assignment, CombineResult
from workers.kinds.known import require_pinned

Q = "model.layers.0.self_attn.q_proj"


@dataclass
class Desk:
    """A namespace with a writer, and a worker who adds up with numpy."""

    writer: Client
    worker: Client
    space: str
    tmp_path: Path

    def push(self, name: str = "a", base: str = "tiny", **said: Any) -> str:
        """Push a new adapter; return its ref."""
        seed = next(SEEDS)
        pushed = {key: said.pop(key) for key in ("method",) if key in said}
        folder = save_adapter(self.tmp_path / f"pushed-{seed}", seed, **said)
        return self.writer.push(folder, f"{self.space}/{name}", base=base, **pushed).ref

    def submit(self, parents: dict[str, float] | list[tuple[str, float]], **spec: Any) -> JobView:
        return self.writer.submit_combine(f"{self.space}/mix", parents, **spec).view

    def claim(self) -> Assignment:
        held = calls.hold(self.worker, name=f"w-{self.space}")
        require_pinned(held)
        return held

    def made(self, held: Assignment, **changed: Any) -> CombineResult:
        """Add the parents up, and say of it what a worker says, but for what is changed."""
        request: Any = held.request
        factors: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        out = self.tmp_path / f"made-{next(SEEDS)}"
        for parent in request.parents:
            files = load_file(
                self.writer.pull(parent.ref, self.tmp_path / f"pulled-{next(SEEDS)}") / "adapter_model.safetensors"
            )
            for name in files:
                if name.endswith("lora_A.weight"):
                    b = files[name.replace("lora_A", "lora_B")]
                    factors.setdefault(name, []).append((files[name], np.float32(parent.weight * 2.0) * b))
        tensors = {}
        for name, pairs in factors.items():
            tensors[name] = np.vstack([a for a, _ in pairs])
            tensors[name.replace("lora_A", "lora_B")] = np.hstack([b for _, b in pairs])
        rank = RANK * len(request.parents)
        config = {"r": rank, "lora_alpha": rank, **changed.pop("config", {})}
        save_adapter(out, tensors=changed.pop("tensors", tensors), **config)
        for name, text in changed.pop("files", {}).items():
            (out / name).write_text(text)
        return self.handed_in(held, out, **changed)

    def handed_in(self, held: Assignment, out: Path, *, base: str = "tiny: base", **changed: Any) -> CombineResult:
        """Send a folder, and say of it what a worker says, but for what is changed."""
        request: Any = held.request
        report = CombineReport(
            dtype="float32", metrics={"modules": 2.0}, kept_energy={Q: 0.5}, libraries={"torch": "2"}
        )
        parents = [Parent(ref=one.ref, relation="combined-from", weight=one.weight) for one in request.parents]
        said = {"parents": parents, **changed}
        version = calls.publication(self.worker, out, said.pop("adapter", request.adapter), base=base, **said)
        return CombineResult(version=version, report=report)

    def complete(self, held: Assignment, result: CombineResult) -> JobView:
        return calls.complete(self.worker, held, combination=result)


@pytest.fixture
def desk(acting: Callable[..., Client], space: str, tmp_path: Path) -> Desk:
    return Desk(acting(**{space: Role.WRITER}), acting(**{space: Role.WORKER}), space, tmp_path)


class TestSubmitting:
    def test_parents_are_pinned_by_number_and_digest_and_weights_of_one_add_up(self, desk: Desk) -> None:
        one, other = desk.push("a"), desk.push("b")
        desk.writer.set_alias(f"{desk.space}/a", "production", 1)
        job = desk.submit([(f"{desk.space}/a@production", 0.5), (other, -0.3), (f"{desk.space}/a", 0.25)])
        pinned = [(one, 0.75), (other, -0.3)]
        assert job.request["parents"] == [
            {"ref": ref, "weight": weight, "digest": desk.writer.get(ref).digest} for ref, weight in pinned
        ]
        assert (job.kind, job.queue, job.subject) == ("combine", "cpu", f"{desk.space}/mix")
        assert [target.label for target in desk.claim().targets] == [one, other]
        parents = [CombineParent(ref=one, weight=1.0, digest="0" * 64)]
        with pytest.raises(
            InvalidInput, match=f"{one} has the digest .*, not 000000000000; name the version that is meant"
        ):
            submit(desk.writer, JobSubmission(request=CombineRequest(adapter=f"{desk.space}/mix", parents=parents)))

    @pytest.mark.parametrize(
        ("weights", "spec", "said", "param"),
        [
            ([], {}, "a combination has 1 to 64 parents, not 0", "parents"),
            ([1.0] * 65, {}, "a combination has 1 to 64 parents, not 65; combine some of them first", "parents"),
            ([0.0], {}, "a@v1 has the weight 0 and adds nothing; leave it out", None),
            (
                [float("nan")],
                {},
                "the weight of .*a@v1 is 'nan', which is not a number; write it as .*a@v1=0.5",
                "parents",
            ),
            ([float("inf")], {}, "the weight of .*a@v1 is 'inf', which is not a number", "parents"),
            (["0.5"], {}, "the weight of .*a@v1 is '0.5', which is not a number", "parents"),
            ([1001.0], {}, "weight can't be 1001; use a number .* at most 1000", "weight"),
            ([1000.0, 1.0], {}, "the weights of .*a@v1 add up to 1001; give at most 1000", "parents"),
            ([0.5, -0.5], {}, "the weights of .*a@v1 add up to 0, so that it adds nothing; leave it out", "parents"),
            (
                [0.1, 0.2, -0.3],
                {},
                "the weights of .*a@v1 add up to 0, so that it adds nothing; leave it out",
                "parents",
            ),
            ([0.5], {"method": "svd"}, "the method svd truncates to a rank; give it with rank", None),
            ([0.5], {"rank": 2}, "the method linear keeps every rank; leave rank out, or say the method svd", None),
            ([0.5], {"method": "svd", "rank": 0}, "rank can't be 0; use a whole number from 1 to", "rank"),
            (
                [0.5],
                {"method": "svd", "rank": 3},
                "rank is 3, and the ranks of the parents add up to 2; give 2 or less, or the method linear",
                "spec.rank",
            ),
            ([0.5], {"method": "ties"}, "method can't be 'ties'; use linear, cat or svd", "method"),
        ],
    )
    def test_what_is_no_combination_is_refused(
        self, desk: Desk, weights: list[Any], spec: dict[str, Any], said: str, param: str | None
    ) -> None:
        ref = desk.push()
        with pytest.raises(InvalidInput, match=said) as caught:
            desk.submit([(ref, weight) for weight in weights], **spec)
        assert caught.value.param == param
        assert desk.writer.jobs() == []

    @pytest.mark.parametrize(
        ("setting", "more", "said"),
        [
            (
                {"use_dora": True},
                {"lora_magnitude_vector.weight": [8]},
                "is a DoRA, whose magnitudes scale the whole weight",
            ),
            ({"bias": "lora_only"}, {}, "has trained biases of the base \\(bias 'lora_only'\\)"),
            ({"modules_to_save": ["embed_tokens"]}, {}, "replaces embed_tokens whole \\(modules_to_save\\)"),
            ({"trainable_token_indices": [1]}, {}, "has trained single tokens \\(trainable_token_indices\\)"),
            ({"use_qalora": True}, {}, "has use_qalora, with which a layer adds something else than s·B·A"),
        ],
    )
    def test_what_is_no_sum_of_factors_is_refused_by_name(
        self, desk: Desk, setting: dict[str, Any], more: dict[str, Any], said: str
    ) -> None:
        seed = next(SEEDS)
        tensors = lora_tensors(seed)
        for module, rows in (("q_proj", 8), ("v_proj", 4)):
            prefix = f"base_model.model.model.layers.0.self_attn.{module}"
            tensors |= {f"{prefix}.{name}": np.ones(rows, dtype=np.float32) for name in more}
        if "modules_to_save" in setting:
            tensors["base_model.model.model.embed_tokens.weight"] = np.ones((32, 6), dtype=np.float32)
        if "trainable_token_indices" in setting:
            name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
            tensors[name] = np.ones((1, 6), dtype=np.float32)
        odd, plain = desk.push("odd", tensors=tensors, **setting), desk.push()
        with pytest.raises(InvalidInput, match=f"{odd} {said}") as caught:
            desk.submit({plain: 0.5, odd: 0.5})
        assert caught.value.param == "parents"
        # By itself it is taken as it is.
        assert desk.submit({odd: 1.0}).state == "queued"

    def test_parents_that_do_not_fit_each_other_are_refused(self, desk: Desk) -> None:
        plain = desk.push()
        biased = lora_tensors(next(SEEDS))
        other = {name.replace("model.model.model.", "model.model."): tensor for name, tensor in biased.items()}
        for setting, said in [
            ({"task_type": "FEATURE_EXTRACTION"}, "the parents are of different tasks"),
            ({"tensors": other}, r"calls a module model\.layers\.0\.self_attn\.q_proj and .*other@v\d one layers\.0\."),
        ]:
            odd = desk.push("other", **setting)  # type: ignore[arg-type]
            with pytest.raises(InvalidInput, match=said):
                desk.submit({plain: 0.5, odd: 0.5})

    def test_nobody_waits_for_the_patterns_of_a_request(
        self, people: World, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They may take seconds, and one transaction writes at a time."""
        writing, seen = [0], []
        write, product = people.services.db.write, LoraAdapter.product

        @contextmanager
        def counted(**said: Any) -> Iterator[Any]:
            with write(**said) as session:
                writing[0] += 1
                try:
                    yield session
                finally:
                    writing[0] -= 1

        def looked(adapter: LoraAdapter[Any], module: str) -> DeltaW[Any]:
            seen.append(writing[0])
            return product(adapter, module)

        refs = [desk.push("a", rank_pattern={".*q_proj": 2}), desk.push("b")]
        monkeypatch.setattr(people.services.db, "write", counted)
        monkeypatch.setattr(LoraAdapter, "product", looked)
        desk.submit(dict.fromkeys(refs, 0.5))
        assert seen == [0] * 4

    def test_a_key_is_answered_though_a_parent_is_gone_since(self, people: World, desk: Desk) -> None:
        """Whoever asks again has no other way to learn of the job; it is looked at no second time."""
        ref = desk.push()
        asked = JobSubmission(
            request=CombineRequest(adapter=f"{desk.space}/mix", parents=[CombineParent(ref=ref, weight=0.5)])
        )
        said: dict[str, Any] = {"submission": asked, "who": LOCAL, "idempotency_key": f"{desk.space}-key"}
        first = people.services.jobs.submit(**said)
        desk.writer.versions.archive(ref)
        assert people.services.jobs.submit(**said).id == first.id
        with pytest.raises(Invalid, match="is archived"):
            people.services.jobs.submit(**said | {"idempotency_key": None})

    def test_embeddings_that_only_one_holds_whole_are_refused(self, desk: Desk) -> None:
        tensors = lora_tensors(next(SEEDS))
        tensors["base_model.model.model.embed_tokens.weight"] = np.ones((32, 6), dtype=np.float32)
        odd, plain = desk.push("odd", tensors=tensors), desk.push()
        with pytest.raises(
            InvalidInput, match=r"embed_tokens.weight whole, which is not a ΔW, .*save_embedding_layers=False"
        ):
            desk.submit({plain: 0.5, odd: 0.5})

    def test_versions_over_other_bases_are_refused_by_fingerprint(self, people: World, desk: Desk) -> None:
        people.admin.bases.register(base_registration("other"))
        one, other = desk.push(), desk.push("b", base="other")
        said = rf"{one} is over the base tiny \({digest('tiny: base')[:12]}\) and {other} over other \({digest('other: base')[:12]}\)"
        with pytest.raises(InvalidBase, match=said):
            desk.submit({one: 0.5, other: 0.5})

    def test_only_ready_versions_of_the_same_namespace_are_combined(
        self, people: World, desk: Desk, acting: Callable[..., Client], admin: Client, tmp_path: Path
    ) -> None:
        one, two = desk.push(), desk.push("b")
        desk.writer.versions.archive(two)
        with pytest.raises(InvalidInput, match=f"{two} is archived, and only ready .*: adapterctl restore {two}"):
            desk.submit({one: 0.5, two: 0.5})
        admin.versions.delete(two)
        with pytest.raises(NotFound, match="was deleted"):
            desk.submit({one: 0.5, two: 0.5})
        elsewhere = Desk(acting(**{f"{desk.space}-x": Role.WRITER}), desk.worker, f"{desk.space}-x", tmp_path)
        theirs = elsewhere.push()
        # Who may not read there is told what they would be told of what isn't there.
        with pytest.raises(NotFound, match=f"there is no {theirs}"):
            desk.submit({one: 0.5, theirs: 0.5})
        with people.services.db.write() as session:
            row = find_version(session, parse_ref(one), LOCAL)
            row.state, row.number, digits = "quarantined", None, row.digest[:12]
        held = f"{desk.space}/a@sha256:{digits}"
        with pytest.raises(InvalidInput, match=f"{held}.* is quarantined, .*: adapterctl release"):
            desk.submit({held: 0.5})
        one = desk.push()
        both = acting(**{desk.space: Role.WRITER, f"{desk.space}-x": Role.READER})
        with pytest.raises(InvalidInput, match=f"{theirs} is of the namespace {desk.space}-x, and a combination is of"):
            both.submit_combine(f"{desk.space}/mix", {one: 0.5, theirs: 0.5})
        with pytest.raises(NotAllowed):
            both.submit_combine(f"{desk.space}-x/mix", {theirs: 0.5})
        with pytest.raises(NotFound, match="there is no adapter"):
            elsewhere.writer.submit_combine(f"{desk.space}/mix", {theirs: 0.5})


class TestResults:
    def test_a_combination_is_a_version_with_its_parents_weights_and_method(self, desk: Desk) -> None:
        one, other = desk.push("a", method="lora"), desk.push("b", method="lora")
        desk.submit({one: 0.7, other: -0.3}, method="cat")
        held = desk.claim()
        done = desk.complete(held, desk.made(held))
        assert (done.result["ref"], done.result["existing"]) == (f"{desk.space}/mix@v1", False)
        # Lists go without the share of each module.
        assert done.result["kept_energy"] == {Q: 0.5}
        listed = next(job for job in desk.writer.jobs() if job.id == held.job)
        assert listed.view.result == {name: part for name, part in done.result.items() if name != "kept_energy"}
        assert listed.result().ref == f"{desk.space}/mix@v1"  # type: ignore[union-attr]
        version = desk.writer.get(f"{desk.space}/mix@v1").info
        assert [(one.ref, one.relation, one.weight) for one in version.parents] == [
            (one, "combined-from", 0.7),
            (other, "combined-from", -0.3),
        ]
        assert version.training == {"combine_method": "cat", "combine_rank": None, "combine_dtype": "float32"}
        assert (version.method, version.quantization, version.lora.rank) == ("lora", None, 2 * RANK)
        assert (version.metrics, version.reported) == ({"modules": 2.0}, ["libraries", "metrics"])
        edges = desk.writer.lineage(f"{desk.space}/mix@v1").edges
        assert {(edge.target, edge.weight) for edge in edges if edge.relation == "combined-from"} == {
            (one, 0.7),
            (other, -0.3),
        }
        assert {edge.target for edge in edges if edge.relation == "made-by"} == {f"job:{held.job}"}

    def test_what_all_parents_exclude_by_is_kept(self, desk: Desk) -> None:
        pattern = {"exclude_modules": r".*\.k_proj"}
        desk.submit({desk.push("a", **pattern): 0.7, desk.push("b", **pattern): 0.3})
        held = desk.claim()
        assert desk.complete(held, desk.made(held, config=pattern)).state == "succeeded"

    def test_what_was_not_asked_for_is_refused(self, desk: Desk) -> None:
        one, other = desk.push("a"), desk.push("b")
        desk.submit({one: 0.7, other: 0.3})
        held = desk.claim()
        parents = [
            Parent(ref=ref, relation="combined-from", weight=weight) for ref, weight in ((one, 0.7), (other, 0.3))
        ]
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("adapter", {"adapter": f"{desk.space}/other"}),
            ("parents", {"parents": parents[:1]}),
            ("parents", {"parents": [parents[0], parents[1].model_copy(update={"weight": 0.31})]}),
            ("parents", {"parents": [parents[0], parents[1].model_copy(update={"relation": "merged-from"})]}),
            ("training.combine_method", {"training": {"combine_method": "cat"}}),
            ("training.lr", {"training": {"lr": 0.1}}),
            ("tags", {"tags": {"approved": "yes"}}),
            ("description", {"description": "the best"}),
            ("lora.use_rslora", {"config": {"use_rslora": True}}),
            ("chat_template.jinja", {"files": {"chat_template.jinja": "{{ messages }}"}}),
        ]
        for param, changed in wrong:
            with pytest.raises(VerificationFailed, match="not what the job asked for") as caught:
                desk.complete(held, desk.made(held, **changed))
            assert caught.value.param == param
        rank = 3 * RANK
        tall = {
            name: np.repeat(tensor, 3, axis=0 if "lora_A" in name else 1).astype(np.float32)
            for name, tensor in lora_tensors(next(SEEDS)).items()
        }
        with pytest.raises(VerificationFailed) as caught:
            desk.complete(held, desk.made(held, tensors=tall, config={"r": rank, "lora_alpha": rank}))
        assert caught.value.param == "lora.rank"
        assert desk.complete(held, desk.made(held)).state == "succeeded"

    def test_weights_that_are_no_sum_of_the_parents_are_refused(self, desk: Desk) -> None:
        one, other = desk.push("a"), desk.push("b")
        desk.submit({one: 0.7, other: -0.3})
        held = desk.claim()
        sound = desk.made(held)
        readme = ManifestFile(path="README.md", sha256=digest("trust me"), size_bytes=8)
        manifest = sound.version.manifest
        with_more = manifest.model_copy(update={"files": sorted([*manifest.files, readme], key=lambda file: file.path)})
        beside = sound.model_copy(update={"version": sound.version.model_copy(update={"manifest": with_more})})
        with pytest.raises(VerificationFailed, match=r"README.md is [0-9a-f]{64}, not None"):
            desk.complete(held, beside)
        unrelated = {name: tensor * np.float32(9) for name, tensor in lora_tensors(next(SEEDS)).items()}
        alone = {name: tensor for name, tensor in lora_tensors(next(SEEDS)).items() if "v_proj" in name}
        embeddings = {"base_model.model.model.embed_tokens.weight": np.ones((32, 6), dtype=np.float32)}
        plain = {"r": RANK, "lora_alpha": RANK}
        for tensors, config, said in [
            (unrelated, plain, "the norm of .*q_proj is .*, not from .* to .*, as of a sum"),
            (alone, {**plain, "target_modules": ["v_proj"]}, "q_proj is missing, not a part of it"),
            (lora_tensors(next(SEEDS)) | embeddings, plain, "embed_tokens.weight is a part of it, not missing"),
        ]:
            with pytest.raises(VerificationFailed, match=said):
                desk.complete(held, desk.made(held, tensors=tensors, config=config))
        assert desk.complete(held, sound).state == "succeeded"

    def test_bytes_that_are_known_already_are_held_against_the_parents_too(self, desk: Desk) -> None:
        """A writer has pushed them; a worker hands them in as a sum."""
        pushed = save_adapter(desk.tmp_path / "known", next(SEEDS), r=RANK, lora_alpha=90)
        desk.writer.push(pushed, f"{desk.space}/known", base="tiny")
        desk.submit({desk.push("a"): 0.01})
        held = desk.claim()
        with pytest.raises(VerificationFailed, match=r"the norm of .*q_proj is"):
            desk.complete(held, desk.handed_in(held, pushed))

    def test_another_base_is_refused(self, people: World, desk: Desk) -> None:
        people.admin.bases.register(base_registration("other"))
        desk.submit({desk.push(): 0.5})
        held = desk.claim()
        with pytest.raises(VerificationFailed) as caught:
            desk.complete(held, desk.made(held, base="other: base"))
        assert caught.value.param == "base"

    def test_one_parent_of_weight_1_is_taken_byte_for_byte(self, desk: Desk) -> None:
        ref = desk.push()
        desk.submit({ref: 1})
        held = desk.claim()
        with pytest.raises(VerificationFailed) as caught:
            desk.complete(held, desk.made(held))
        assert caught.value.param == "adapter_model.safetensors"
        pulled = desk.writer.pull(ref, desk.tmp_path / "same")
        done = desk.complete(held, desk.handed_in(held, pulled))
        made, parent = desk.writer.get(done.result["ref"]).info, desk.writer.get(ref).info
        assert (made.files, made.lora) == (parent.files, parent.lora)
        assert [(one.ref, one.weight) for one in made.parents] == [(ref, 1.0)]

    def test_a_copy_was_trained_on_what_its_parent_was(self, desk: Desk) -> None:
        """What a classification tells apart, and the date of a template, stand there."""
        body = package(save_adapter(desk.tmp_path / "trained", next(SEEDS)), desk.tmp_path, f"{desk.space}/t")
        folder = desk.tmp_path / "trained"
        sources = {file.sha256: folder / file.path for file in body.manifest.files if file.path.endswith("safetensors")}
        config = next(path for path in desk.tmp_path.glob("staging-*/adapter_config.json"))
        upload = desk.writer.uploader.upload({**sources, hash_file(config)[0]: config}, "sending")
        use = use_of(digest("rows"))
        body = body.model_copy(update={"upload": upload, "dataset": use})
        ref = desk.writer.call("POST", "/versions", Published, body=body).version.ref
        desk.submit({ref: 1.0})
        held = desk.claim()
        done = desk.complete(held, desk.handed_in(held, desk.writer.pull(ref, desk.tmp_path / "pulled")))
        version = desk.writer.get(done.result["ref"]).info
        assert (version.dataset, version.reported) == (use, ["dataset", "libraries", "metrics"])

    def test_what_the_parents_have_alike_for_serving_is_taken_over_and_the_rest_is_said(self, desk: Desk) -> None:
        refs = []
        for number, (template, generation) in enumerate((("{{ a }}", "{}"), ("{{ a }}", '{"eos_token_id": 1}'))):
            seed = next(SEEDS)
            folder = save_adapter(desk.tmp_path / f"served-{seed}", seed)
            (folder / "chat_template.jinja").write_text(template)
            (folder / "generation_config.json").write_text(generation)
            refs.append(desk.writer.push(folder, f"{desk.space}/s{number}", base="tiny").ref)
        desk.submit(dict.fromkeys(refs, 0.5))
        held = desk.claim()
        with pytest.raises(VerificationFailed) as caught:
            desk.complete(held, desk.made(held))
        assert caught.value.param == "chat_template.jinja"
        done = desk.complete(held, desk.made(held, files={"chat_template.jinja": "{{ a }}"}))
        version = desk.writer.get(done.result["ref"]).info
        assert version.warnings == [
            f"the parents differ in generation_config.json, which {refs[0]}, {refs[1]} have: none was taken over; serve it with one that fits"
        ]

    def test_the_same_combination_again_is_the_same_version(self, desk: Desk) -> None:
        one, other = desk.push("a"), desk.push("b")
        results = []
        for _ in range(2):
            desk.submit({one: 0.7, other: 0.3})
            held = desk.claim()
            results.append(desk.complete(held, desk.made(held)).result)
        assert [result and (result["ref"], result["existing"]) for result in results] == [
            (f"{desk.space}/mix@v1", False),
            (f"{desk.space}/mix@v1", True),
        ]

    def test_a_worker_is_given_what_was_pinned(self, desk: Desk) -> None:
        one, other = desk.push("a"), desk.push("b")
        desk.submit({one: 0.7, other: 0.3})
        held = desk.claim()
        request: Any = held.request
        lied = request.model_copy(
            update={"parents": [request.parents[0].model_copy(update={"digest": "0" * 64}), request.parents[1]]}
        )
        for changed, said in [
            ({"request": lied}, f"other files of {one}"),
            ({"targets": held.targets[:1]}, "a different number of targets"),
            ({"targets": held.targets[::-1]}, f"other files of {one}"),
        ]:
            with pytest.raises(VerificationFailed, match=said):
                require_pinned(held.model_copy(update=changed))
