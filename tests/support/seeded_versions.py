"""A trained version with all that its page shows: curves, scores, a probe, norms of many layers, relatives, a signature."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from registry.artifacts.models import ManifestAccess
from registry.signatures.models import Signature
from sdk.schemas.catalog import VersionView
from sdk.schemas.evaluation import EvaluationReport
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission
from support import calls
from support.adapters import SPEC, base_registration, digest, save_adapter, use_of
from support.people import submit
from support.points import Sender
from support.registries import World
from support.scored_rows import CONDITIONS
from support.seeded_curves import measured

#: The base.
BASE = "deep"
#: The modules of each layer, with their shapes.
MODULES = {
    "self_attn.q_proj": (8, 6),
    "self_attn.k_proj": (4, 6),
    "self_attn.v_proj": (4, 6),
    "self_attn.o_proj": (6, 8),
    "mlp.gate_proj": (12, 6),
    "mlp.up_proj": (12, 6),
    "mlp.down_proj": (6, 12),
}
PROBE = {
    "probe_tokens_1": 14.0, "probe_logit_gap_1": 3.25, "probe_kl_1": 0.41, "probe_tokens_2": 9.0, "probe_logit_gap_2": 2.5,
    "probe_kl_2": 0.18, "probe_largest_logit": 21.0, "probe_logit_gap": 3.25, "probe_kl": 0.32,
}  # fmt: skip


def base_tensors(layers: int) -> dict[str, list[int]]:
    """The shapes of a base with so many layers."""
    return {
        f"model.layers.{layer}.{name}.weight": list(shape) for layer in range(layers) for name, shape in MODULES.items()
    }


def lora_tensors(layers: int, seed: int) -> dict[str, np.ndarray]:
    """A and B of all its modules; later layers change more."""
    random, tensors = np.random.default_rng(seed), {}
    for layer in range(layers):
        for at, (name, (out, into)) in enumerate(MODULES.items()):
            prefix, scale = f"base_model.model.model.layers.{layer}.{name}", 0.05 + (layer / layers) ** 2 * (1 + at / 9)
            tensors[f"{prefix}.lora_A.weight"] = random.normal(size=(2, into)).astype("float32")
            tensors[f"{prefix}.lora_B.weight"] = (scale * random.normal(size=(out, 2))).astype("float32")
    return tensors


class Maker:
    """Makes versions of one registry, as its workers and writers do."""

    def __init__(self, world: World, folder: Path, *, layers: int = 24) -> None:
        self.world, self.folder, self.layers, self._seed = world, folder, layers, 0
        world.admin.bases.register(base_registration(BASE, tensors=base_tensors(layers)))
        file = folder / "rows.jsonl"
        file.write_text('{"prompt": "a", "completion": "b"}\n')
        self.rows = file
        self.data: str = world.writer.datasets.add(file, name="reviews").digest

    def adapter(self) -> Path:
        """Write an adapter that is like no other."""
        self._seed += 1
        names = [name.rpartition(".")[2] for name in MODULES]
        tensors = lora_tensors(self.layers, self._seed)
        return save_adapter(self.folder / f"adapter-{self._seed}", tensors=tensors, target_modules=names)

    def trained(self, name: str, *, steps: int = 600, **said: Any) -> VersionView:
        """Train a version, with points and a probe."""
        spec = SPEC.model_copy(update={"targets": "all-linear"})
        base = BaseChoice(id=BASE, fingerprint=digest(f"{BASE}: base"))
        request = TrainingRequest(adapter=name, base=base, data=self.data, spec=spec)
        job = submit(self.world.writer, JobSubmission(request=request))
        held = calls.hold(self.world.worker)
        assert held.job == job.id
        Sender(self.world.worker, held).send_all(measured(steps, seed=self._seed + 1))
        told: dict[str, Any] = {
            "dataset": use_of(self.data),
            "training": {"objective": "sft", "lr": 2e-4, "probe_texts": digest("texts"), "total_steps": steps},
            "metrics": {"loss": 1.31, "eval_loss": 1.45, "eval_loss_base": 3.2, "train_s": 612.0, **PROBE},
            "libraries": {"torch": "2.9.0", "transformers": "5.0.0", "peft": "0.21.0"},
        }
        version = calls.publication(self.world.worker, self.adapter(), name, base=f"{BASE}: base", **(told | said))
        ref = (calls.complete(self.world.worker, held, version=version).result or {})["ref"]
        view: VersionView = self.world.writer.get(ref).info
        return view

    def pushed(self, name: str, **said: Any) -> VersionView:
        """Push a version."""
        view: VersionView = self.world.writer.push(self.adapter(), name, base=BASE, **said).info
        return view

    def scored(self, ref: str, **metrics: float) -> str:
        """Score a version; return the evaluation's id."""
        job = self.world.writer.submit_evaluation(ref, data=self.rows, precision="native", only=True)
        held = calls.hold(self.world.worker)
        (target,) = held.targets
        report = EvaluationReport(metrics=metrics, precision="float32", conditions=CONDITIONS)
        calls.complete(self.world.worker, held, evaluations=[calls.scored(target, report=report)])
        ident: str = self.world.writer.evaluations(job=job.id)[0].id
        return ident

    def signed(self, view: VersionView) -> None:
        """Record a signature, which nobody has checked."""
        with self.world.services.db.write() as session:
            key = hashlib.sha256(view.ref.encode()).hexdigest()
            row = {"manifest_digest": view.digest, "namespace": "-", "key_id": key, "bundle": "{}", "created_by": "ana"}
            session.execute(insert(Signature).values(**row))
            assert session.query(ManifestAccess).filter_by(manifest_digest=view.digest).count()
