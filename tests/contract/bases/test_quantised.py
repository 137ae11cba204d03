"""Bases that come quantised: the registry reads what they are, and refuses at submit what can't be done over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from contract.bases.helpers import VALUES, Tenant
from support import calls
from support.fixtures import Limits
from support.packed_files import LONG, PACKED, QUANTIZATION, write_packed_base
from support.registries import World
from support.scored_rows import CONDITIONS
from support.small import TENSORS, write_adapter

from registry.artifacts.service import Artifacts
from registry.catalog.bases import deriving
from registry.catalog.bases.finding import find_base, tensors_of
from registry.principal import Role
from sdk.errors import InvalidBase, InvalidInput, VerificationFailed
from sdk.formats import packed_weights
from sdk.formats.packed_weights import WeightFile
from sdk.schemas.evaluation import EvaluationReport
from sdk.schemas.jobs import JobView
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.manifest import ManifestFile
from sdk.schemas.work import EvaluationResult

FP4 = {**QUANTIZATION, "bnb_4bit_quant_type": "fp4"}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "one ", "completion": "two"}\n' * 4)
    return path


def packed(tenant: Tenant, name: str, **how: Any) -> Path:
    return write_packed_base(tenant.folder / f"{next(VALUES)}" / name, value=next(VALUES) % 256, **how)


class TestWhatItIs:
    def test_the_registry_reads_the_shapes_that_packed_weights_stand_for(self, ours: Tenant, people: World) -> None:
        folder = packed(ours, "packed")
        ours.register(folder, upload=True, id="packed", tensors={"lie": [1]})
        with people.services.db.read() as session:
            row = find_base(session, "packed", ours.space, whole=True)
            derived = tensors_of(row)
        assert {name: derived[name] for name in PACKED} == PACKED
        assert {name: derived[name] for name in TENSORS} == TENSORS
        assert derived == ours.scan(folder).registration.tensors

    def test_a_weight_and_what_is_said_of_it_may_lie_in_different_files(self, ours: Tenant, people: World) -> None:
        folder = packed(ours, "sharded", split=True)
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert index[LONG] != index[f"{LONG}.quant_state.bitsandbytes__nf4"]
        ours.register(folder, upload=True, id="sharded")
        with people.services.db.read() as session:
            derived = tensors_of(find_base(session, "sharded", ours.space, whole=True))
        assert {name: derived[name] for name in PACKED} == PACKED

    def test_what_packed_weights_say_is_read_while_others_add_theirs(
        self, ours: Tenant, monkeypatch: pytest.MonkeyPatch, limits: Limits
    ) -> None:
        asked: list[str] = []
        parts = Artifacts.parts

        def watched(self: Artifacts, sha256: str) -> Callable[[int, int], bytes]:
            asked.append(sha256)
            read = parts(self, sha256)

            def unlocked(begin: int, end: int) -> bytes:
                assert not deriving._one_at_a_time.locked()
                return read(begin, end)

            return unlocked

        monkeypatch.setattr(Artifacts, "parts", watched)
        limits(packed_weights, _NEAR_BYTES=0)
        assert ours.register(packed(ours, "packed"), upload=True, id="packed").facts == "derived"
        # Where the blob lies is looked up once for all of its weights.
        assert len(asked) == 1

    def test_a_file_under_many_names_is_looked_into_once(self, ours: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
        scanned = ours.scan(packed(ours, "split", split=True)).manifest
        (first, *_) = [file for file in scanned.files if file.path.endswith(".safetensors")]
        more = [first.model_copy(update={"path": f"model-0000{n}-of-00009.safetensors"}) for n in range(3, 10)]
        looked: list[str] = []

        def look(artifacts: Any, file: ManifestFile) -> WeightFile:
            looked.append(file.sha256)
            return WeightFile({}, {}, {})

        monkeypatch.setattr(deriving, "_look_into", look)
        monkeypatch.setattr(deriving, "check_proof", lambda *given: None)
        monkeypatch.setattr(deriving, "_whole", lambda artifacts, file, most: b"{}")
        monkeypatch.setattr(deriving, "check_index", lambda *given: None)
        manifest = scanned.model_copy(update={"files": [*scanned.files, *more]})
        deriving.derive(cast(Artifacts, None), manifest)
        assert len(looked) == len(set(looked)) == 2

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ({"kind": "fp4"}, "'nf4' of weights that are packed as fp4"),
            ({"nested": False}, "the scales are quantised too"),
            ({"config": None}, "config.json does not say so"),
            ({"config": {"quant_method": "gptq", "bits": 4}}, "config.json does not say so"),
            ({"state": {"shape": [8, 8]}}, "doesn't belong to it"),
            ({"state": {"shape": [24, -8]}}, "doesn't belong to it"),
            ({"state": {"shape": [192]}}, "doesn't belong to it"),
            ({"state": {"quant_type": "fp4"}}, "doesn't belong to it"),
            ({"state": b"[" * 3000}, "doesn't belong to it"),
            ({"state": b" " * 5000 + b"{}"}, "doesn't belong to it"),
        ],
    )
    def test_files_that_contradict_themselves_are_no_base(self, ours: Tenant, how: dict[str, Any], said: str) -> None:
        with pytest.raises(InvalidBase, match=said):
            ours.scan(packed(ours, "contradictory", **how))
        # Nor does a client get them in that does not look.
        good = packed(ours, "good")
        scanned = ours.scan(good)
        bad = packed(ours, "bad", **how)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "sdk.pushing.base_folder.shapes_of",
                lambda files, said: {name: shape for file in files for name, shape in file.shapes.items()},
            )
            patch.setattr("sdk.pushing.base_folder._read_states", lambda folder, held: {})
            patch.setattr("sdk.pushing.base_folder.check_packing", lambda config, tensors: None)
            with pytest.raises(VerificationFailed, match=said):
                ours.register(bad, upload=True, id="bad")
        assert scanned.registration.tensors[LONG] == [24, 8]

    def test_a_config_that_says_4_bits_of_wide_weights_is_no_base_s(self, ours: Tenant) -> None:
        with pytest.raises(InvalidBase, match="packed in 4 bits by bitsandbytes, but none is"):
            ours.scan(ours.base(quantization_config=QUANTIZATION))


class TestJobs:
    def test_what_its_weights_allow_is_taken_and_anything_else_is_refused_at_submit(
        self, ours: Tenant, rows: Path, tmp_path: Path
    ) -> None:
        client, space = ours.client, ours.space
        ours.register(packed(ours, "packed"), upload=True, id="packed")
        job = client.submit_training(f"{space}/a", base="packed", data=rows, targets="up_proj")
        assert job.view.needs.memory_bytes is not None
        with pytest.raises(
            InvalidInput, match=r"packed is stored in 4 bits \(nf4\).*choose the method qlora"
        ) as refused:
            client.submit_training(f"{space}/a", base="packed", data=rows, method="lora")
        assert (type(refused.value), refused.value.param) == (InvalidInput, "method")
        ref = client.push(write_adapter(tmp_path / "adapter"), f"{space}/pushed", base="packed").ref
        client.submit_merge(ref)
        client.submit_merge(ref, onto="dequantized")
        with pytest.raises(InvalidInput, match="no 16-bit weights to merge onto; merge onto dequantized") as refused:
            client.submit_merge(ref, onto="original")
        assert refused.value.param == "onto"
        for precision in ("as-trained", "nf4"):
            client.submit_evaluation([ref, "base:packed"], data=rows, precision=precision)  # type: ignore[arg-type]
        for targets in ([ref], ["base:packed"]):
            with pytest.raises(InvalidInput, match="has no native weights") as refused:
                client.submit_evaluation(targets, data=rows, precision="native")
            assert refused.value.param == "precision"

    @pytest.mark.parametrize(
        ("said", "named"),
        [
            ({"quant_method": "gptq", "bits": 4}, "'gptq'"),
            ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "'fp8'"),
            ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "'bitsandbytes' in 8 bits"),
        ],
    )
    def test_another_method_is_refused_by_name_for_every_job_and_stays_registered(
        self, ours: Tenant, rows: Path, tmp_path: Path, said: dict[str, Any], named: str
    ) -> None:
        client, space = ours.client, ours.space
        ours.register(ours.base(quantization_config=said), upload=True, id="other")
        assert client.bases.get("other").uploaded
        pushed = client.push(write_adapter(tmp_path / "adapter"), f"{space}/pushed", base="other").info
        assert pushed.quantization is None
        assert any(named in warning and "could not be checked" in warning for warning in pushed.warnings or [])
        for submit in (
            lambda: client.submit_training(f"{space}/a", base="other", data=rows),
            lambda: client.submit_training(f"{space}/a", base="other", data=rows, method="lora"),
            lambda: client.submit_merge(pushed.ref),
            lambda: client.submit_evaluation(pushed.ref, data=rows),
            lambda: client.submit_evaluation("base:other", data=rows),
        ):
            with pytest.raises(InvalidBase, match=f"base other is quantised by {named}.*16-bit base") as refused:
                submit()
            assert refused.value.param == "base"

    def test_scores_are_of_the_precision_that_the_base_is_stored_in(
        self, ours: Tenant, join: Callable[..., Tenant], rows: Path
    ) -> None:
        view = ours.register(packed(ours, "packed", kind="fp4", config=FP4), upload=True, id="packed")
        ours.client.submit_evaluation("base:packed", data=rows)
        worker = join(ours.space, Role.WORKER).client
        held = calls.hold(worker)

        def complete(precision: str) -> JobView:
            report = EvaluationReport.model_validate(
                {"metrics": {"loss": 1.0}, "precision": precision, "conditions": CONDITIONS}
            )
            result = EvaluationResult(
                label=held.targets[0].label, digest=None, base_fingerprint=view.fingerprint, report=report
            )
            return calls.complete(worker, held, evaluations=[result])

        for wrong in ("bfloat16", "nf4"):
            with pytest.raises(VerificationFailed, match="precision"):
                complete(wrong)
        assert complete("fp4").state == "succeeded"

    def test_experts_that_are_packed_one_by_one_are_refused(self, ours: Tenant, rows: Path) -> None:
        ours.register(packed(ours, "packed", experts=True), upload=True, id="experts")
        with pytest.raises(InvalidBase, match="base experts has experts that bitsandbytes packed one by one"):
            ours.client.submit_training(f"{ours.space}/a", base="experts", data=rows)


class TestVersions:
    def test_the_recipe_is_the_base_s_own_whoever_says_what(self, ours: Tenant, tmp_path: Path) -> None:
        ours.register(packed(ours, "packed"), upload=True, id="packed")
        own = {"type": "nf4", "double_quant": True, "block_size": 64, "storage_dtype": "uint8"}
        pushed = ours.client.push(write_adapter(tmp_path / "a"), f"{ours.space}/a", base="packed").info
        assert pushed.quantization.model_dump(include=set(own)) == own
        assert (pushed.method, pushed.reported) == ("qlora", [])
        assert "quantization" not in pushed.unknown
        claimed = QuantizationRecipe(double_quant=False, block_size=128, compute_dtype="float16")
        said = ours.client.push(
            write_adapter(tmp_path / "b", value=0.5), f"{ours.space}/a", base="packed", quantization=claimed
        ).info
        assert said.quantization.model_dump(include=set(own)) == own
        assert said.quantization.compute_dtype == "float16"
        third = write_adapter(tmp_path / "c", value=0.125)
        with pytest.raises(VerificationFailed, match="quantised as fp4, but base packed is stored in nf4"):
            ours.client.push(third, f"{ours.space}/a", base="packed", quantization=QuantizationRecipe(type="fp4"))
        with pytest.raises(VerificationFailed, match="not quantised, but base packed is stored in nf4"):
            ours.client.push(third, f"{ours.space}/a", base="packed", method="lora")

    def test_an_adapter_of_another_shape_is_refused_with_the_shape_that_the_weight_has(
        self, ours: Tenant, tmp_path: Path
    ) -> None:
        ours.register(packed(ours, "packed"), upload=True, id="packed")
        folder = write_adapter(tmp_path / "a")
        from support.small import write_safetensors

        prefix = "base_model.model.model.layers.0.self_attn"
        shapes = {
            f"{prefix}.{module}.lora_{half}.weight": [2, 16] if half == "A" else [16, 2]
            for module in ("q_proj", "v_proj")
            for half in "AB"
        }
        write_safetensors(folder / "adapter_model.safetensors", shapes, value=0.5)
        with pytest.raises(VerificationFailed, match="the base's weight is 8×8"):
            ours.client.push(folder, f"{ours.space}/a", base="packed")
