"""Trainings that continue a version: what may be continued, what a worker is given, and what lineage says."""

from __future__ import annotations

from typing import Any

import pytest
from contract.jobs.helpers import Crew
from support import calls
from support.adapters import SPEC, base_registration, use_of
from support.people import new_adapter

from sdk.errors import InvalidBase, InvalidInput, NotFound
from sdk.formats.adapter_files import TEMPLATE_FILE
from sdk.formats.template_kwargs import bake
from sdk.schemas.job_requests import ParentChoice
from sdk.schemas.jobs import JobState, JobView
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.version import VERSION


class TestContinuing:
    def submit(self, crew: Crew, ref: str, **changed: Any) -> JobView:
        digest = changed.pop("digest", None)
        body = crew.body(**changed)
        request = body.request.model_copy(update={"parent": ParentChoice(ref=ref, digest=digest)})
        return crew.writer.call("POST", "/jobs", JobView, body=body.model_copy(update={"request": request}))

    def push(self, crew: Crew, name: str = "a", **given: Any) -> Any:
        return crew.writer.push(
            new_adapter(crew.tmp_path), f"{crew.space}/{name}", base="tiny", **{"method": "lora", **given}
        )

    def test_a_version_is_continued_and_is_the_parent_of_what_comes_out(self, crew: Crew) -> None:
        parent = self.push(crew)
        job = self.submit(crew, f"{crew.space}/a")
        assert job.request["parent"] == {"ref": f"{crew.space}/a@v1", "digest": parent.digest}
        held = crew.hold(version=VERSION)
        assert [(target.label, target.digest) for target in held.targets] == [(parent.ref, parent.digest)]
        assert crew.complete(held).state == JobState.SUCCEEDED
        made = crew.writer.get(f"{crew.space}/a@v2")
        assert [(one["ref"], one["relation"]) for one in made.lineage["parents"]] == [(parent.ref, "continued-from")]
        lineage = crew.writer.lineage(made.ref)
        assert (made.ref, parent.ref, "continued-from") in {(e.source, e.target, e.relation) for e in lineage.edges}

    def test_what_can_not_be_continued_so_is_refused(self, crew: Crew) -> None:
        parent = self.push(crew)
        for changed, said in (
            ({"rank": 16}, "rank is [0-9]+ there, not 16; leave that option out"),
            ({"alpha": 5.0}, r"alpha is 4\.0 there, not 5\.0"),
            ({"use_dora": True}, "use_dora is False there, not True; leave that option out"),
            ({"init_lora_weights": "eva"}, "leave init_lora_weights out"),
            ({"method": "qlora"}, "was trained not over a base in 4 bits"),
        ):
            with pytest.raises(InvalidInput, match=said):
                self.submit(crew, parent.ref, spec=SPEC.model_copy(update=changed))
        with pytest.raises(InvalidInput, match="name the version that is meant"):
            self.submit(crew, parent.ref, digest="0" * 64)
        with pytest.raises(NotFound):
            self.submit(crew, f"{crew.space}/none@v1")
        crew.writer.versions.archive(parent.ref)
        with pytest.raises(InvalidInput, match="is archived, and only ready versions are continued; restore it with"):
            self.submit(crew, parent.ref)

    def test_a_base_in_8_bits_is_continued_so_and_merged_onto_the_original_alone(self, crew: Crew) -> None:
        recipe = QuantizationRecipe(type="int8", double_quant=False, block_size=None)
        parent = self.push(crew, method="qlora", quantization=recipe)
        assert parent.info.quantization == recipe
        over = SPEC.model_copy(update={"method": "qlora", "quant_type": "int8"})
        assert self.submit(crew, parent.ref, spec=over).request["spec"]["quant_type"] == "int8"
        with pytest.raises(
            InvalidInput, match="over a base in int8, without double quantisation and a row of weights to a scale"
        ):
            self.submit(crew, parent.ref, spec=SPEC.model_copy(update={"method": "qlora"}))
        with pytest.raises(
            InvalidInput, match=r"was quantised to int8 by the training.*merge onto original"
        ) as refused:
            crew.writer.submit_merge(parent.ref, onto="dequantized")
        assert refused.value.param == "onto"
        assert crew.writer.submit_merge(parent.ref).view.request["spec"]["onto"] == "auto"

    def test_conversations_are_rendered_as_for_a_version_that_was_pushed(self, crew: Crew) -> None:
        folder, template = new_adapter(crew.tmp_path), "{{ messages }}{{ brief }}"
        (folder / TEMPLATE_FILE).write_text(bake(template, {"brief": True}))
        parent = crew.writer.push(folder, f"{crew.space}/a", base="tiny", method="lora")
        own = {"chat_template": template, "template_kwargs": "brief=true"}
        self.require_refused(crew, parent.ref, {**own, "template_kwargs": None}, {**own, "chat_template": "{{ bos }}"})
        assert self.submit(crew, parent.ref, spec=SPEC.model_copy(update=own)).request["spec"].items() >= own.items()
        # What the base's own template is, and whether rows are conversations, a worker finds out.
        assert "chat_template" not in self.submit(crew, parent.ref).request["spec"]

    def test_conversations_are_rendered_as_for_a_version_that_was_trained(self, crew: Crew) -> None:
        own = SPEC.model_copy(update={"template_kwargs": "brief=true"})
        crew.submit(spec=own)
        held, folder = crew.hold(version=VERSION), new_adapter(crew.tmp_path)
        (folder / TEMPLATE_FILE).write_text(bake("{{ messages }}{{ brief }}", {"brief": True}))
        told = {"space": crew.space, "dataset": use_of(crew.data), "metrics": {"loss": 1.0}}
        made = calls.publication(crew.worker, folder, f"{crew.space}/a", **told)
        assert calls.complete(crew.worker, held, version=made).state == JobState.SUCCEEDED
        ref = f"{crew.space}/a@v1"
        self.require_refused(crew, ref, {}, {"template_kwargs": "brief=false"}, {"chat_template": "{{ bos }}"})
        assert self.submit(crew, ref, spec=own).request["spec"]["template_kwargs"] == "brief=true"

    def require_refused(self, crew: Crew, ref: str, *options: dict[str, Any]) -> None:
        for each in options:
            with pytest.raises(
                InvalidInput, match=f"^{ref} was trained with another chat template, which acts like another tokenizer"
            ) as refused:
                self.submit(crew, ref, spec=SPEC.model_copy(update=each))
            assert refused.value.param == "spec.chat_template"

    def test_no_row_is_held_out_that_the_parent_has_learnt(self, crew: Crew) -> None:
        crew.submit(spec=SPEC.model_copy(update={"holdout": 0.1}))
        held = crew.hold(version=VERSION)
        done = crew.complete(held)
        ref = done.result["ref"]
        for changed in ({"holdout": 0.2}, {"holdout": 0.1, "holdout_seed": 1}, {"holdout": 0.1, "holdout_by": "g"}):
            with pytest.raises(
                InvalidInput, match="was trained on rows that would be held out now; hold out the same, or give"
            ):
                self.submit(crew, ref, spec=SPEC.model_copy(update=changed))
        assert self.submit(crew, ref, spec=SPEC.model_copy(update={"holdout": 0.1})).request["spec"]["holdout"] == 0.1
        assert self.submit(crew, ref).request["spec"].get("holdout") is None

    def test_it_is_continued_over_its_own_base_and_in_its_namespace(self, crew: Crew) -> None:
        parent = self.push(crew)
        name = f"other-{crew.space}"
        crew.world.admin.bases.register(base_registration(name))
        with pytest.raises(InvalidBase, match="and is continued over that alone; leave base out"):
            self.submit(crew, parent.ref, base=name)
