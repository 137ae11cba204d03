"""What a merged model is asked for that only an adapter can do: one clear sentence, or the right thing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.merging_desk import MergingDesk, value
from support.people import package, submit
from support.small import write_adapter

from sdk.errors import InvalidInput, NotFound
from sdk.exporting import gguf
from sdk.schemas.catalog import Parent, Published
from sdk.schemas.job_requests import PreviewJobRequest
from sdk.schemas.jobs import JobSubmission


class TestUse:
    """Where an adapter is wanted, a merged model is refused by one sentence that names its adapter."""

    def test_by_the_registry(self, desk: MergingDesk, rows: Path, tmp_path: Path) -> None:
        ref = desk.push()
        merged = desk.merged(ref)["version"]
        data = desk.writer.datasets.add(rows, namespace=desk.space).digest

        def refused(done: str, param: str, ask: Callable[[], Any]) -> None:
            said = f"{merged} is a merged model, not an adapter, so it can't be {done}; name the adapter that was merged into it: {ref}"
            with pytest.raises(InvalidInput) as caught:
                ask()
            assert (caught.value.message, caught.value.code, caught.value.param) == (said, "invalid", param)

        pushed = package(write_adapter(tmp_path / "pushed", value=value()), tmp_path, desk.named("b"))
        named: dict[str, Any] = {"parents": [Parent(ref=merged, relation="continued-from")], "upload": None}
        named["manifest"] = pushed.manifest.model_copy(update={"base_fingerprint": desk.base.fingerprint})
        body = pushed.model_copy(update=named)
        refused("named as a parent", "parents", lambda: desk.writer.call("POST", "/versions", Published, body=body))
        refused("merged", "ref", lambda: desk.submit(merged, "m2"))
        refused("evaluated", "targets", lambda: desk.writer.submit_evaluation([ref, merged], data=rows))
        refused("combined", "parents", lambda: desk.writer.submit_combine(desk.named("mix"), {ref: 0.5, merged: 0.5}))
        preview = JobSubmission(request=PreviewJobRequest(of=merged, data=data))
        refused("previewed", "of", lambda: submit(desk.writer, preview))

    def test_by_the_client(self, desk: MergingDesk, tmp_path: Path) -> None:
        ref = desk.push()
        merged = desk.merged(ref)["version"]
        with pytest.raises(InvalidInput, match=f"{merged} is a merged model and no adapter; an engine"):
            desk.writer.versions.compat(merged, engine="vllm")
        with pytest.raises(
            InvalidInput, match=f"{merged} is a merged model, not an adapter, so there is no LoRA of it"
        ):
            desk.writer.versions.export_plain(merged, tmp_path / "plain")
        with pytest.raises(
            InvalidInput, match=f"{merged} is a merged model, not an adapter, so it was trained on no rows"
        ):
            desk.writer.preview(of=merged)
        with pytest.raises(InvalidInput, match=f"{merged} is a merged model, not an adapter, so .* probe"):
            desk.writer.versions.replay_probe(merged)
        with pytest.raises(InvalidInput, match=f"{merged} is a merged model, not an adapter, so .*weights=False"):
            desk.writer.diff(ref, merged)
        assert desk.writer.diff(ref, merged, weights=False).weights is None
        with pytest.raises(InvalidInput, match=r"no adapter_config\.json in which the base could be renamed"):
            desk.writer.pull(merged, tmp_path / "renamed", base_name="x")

    def test_exported_it_is_the_model_that_it_is(
        self, desk: MergingDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        merged = desk.merged(desk.push())["version"]
        seen: list[tuple[Path, dict[str, Any]]] = []
        monkeypatch.setattr(gguf, "export_model", lambda folder, output, **said: seen.append((folder, said)))
        desk.writer.versions.export(merged, tmp_path / "m.gguf", dtype="f16", tokenizer_from="base.gguf")
        ((folder, said),) = seen
        assert said == {
            "name": merged,
            "dtype": "f16",
            "tokenizer_from": "base.gguf",
            "modelfile": False,
            "ollama_base": None,
        }
        assert (folder / "model.safetensors").is_file()
        with pytest.raises(InvalidInput, match=f"{merged} is a whole model, which needs no base; leave base= out"):
            desk.writer.versions.export(merged, tmp_path / "m.gguf", base=desk.folder)

    def test_a_pulled_one_is_no_adapter_to_push(self, desk: MergingDesk, tmp_path: Path) -> None:
        pulled = desk.writer.pull(desk.merged(desk.push())["version"], tmp_path / "pulled")
        with pytest.raises((InvalidInput, NotFound), match=r"adapter_config\.json"):
            desk.writer.push(pulled, desk.named("b"), base=desk.base.fingerprint)
