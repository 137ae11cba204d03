"""One path through the product for a tiny base of a family: trained, judged, scored and merged, then read by plain
PEFT.

The truth is what transformers and PEFT themselves make of the files here.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from support import tiny
from support.architectures import save_model
from support.trainings import run_training, save_jsonl

#: Families as the documentation names them, and the architecture that represents each.
FAMILIES = {
    "Llama": "llama",
    "Llama, tied": "llama-tied",
    "Mistral": "mistral",
    "Qwen3": "qwen3",
    "Qwen3.5": "qwen3.5",
    "Phi-3": "phi3",
    "Gemma 2": "gemma2",
    "Gemma 3": "gemma3",
    "Gemma 3, multimodal": "gemma3-vision",
    "Qwen2.5-VL": "qwen2.5-vl",
    "GPT-2": "gpt2",
    "OPT": "opt",
    "Mixtral": "mixtral",
    "Qwen3-MoE": "qwen3-moe",
}
METHODS = ("lora", "qlora")
TARGETS = ("qv", "attention", "all-linear")
DTYPES = ("float32", "bfloat16", "float16")
SHARDS = (1, 4)
#: How far logits and losses may be from those of plain PEFT, as a share of the largest: the rounding of stored weights.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.02}


@dataclass(frozen=True)
class Case:
    """One cell of the product."""

    family: str
    method: Literal["lora", "qlora"]
    targets: str
    dtype: str
    shards: int

    def __str__(self) -> str:
        return " ".join(str(value) for value in asdict(self).values())


@dataclass(frozen=True)
class Found:
    """The result of a case."""

    case: Case
    #: Modules that were adapted.
    modules: int
    #: Loss of the bare base and with the adapter, in nats per supervised token.
    loss_bare: float
    loss: float
    #: The largest distance of the evaluation's loss, and of the merged model's logits, as a share of plain PEFT's.
    loss_error: float
    merge_error: float


def whole_product() -> list[Case]:
    """Every combination."""
    return [Case(*values) for values in itertools.product(FAMILIES, METHODS, TARGETS, DTYPES, SHARDS)]  # type: ignore[arg-type]


def pairwise() -> list[Case]:
    """A small set of cases in which every family meets every value of each other axis, and all of these meet each
    other.
    """
    found = []
    for number, family in enumerate(FAMILIES):
        for turn in range(3):
            at = number + turn
            method, shards = METHODS[(turn + number) % 2], SHARDS[(turn + number // 2) % 2]
            found.append(Case(family, method, TARGETS[turn], DTYPES[at % 3], shards))  # type: ignore[arg-type]
    return found


def uncovered(cases: list[Case]) -> Iterator[tuple[str, Any, str, Any]]:
    """Yield the pairs of values of two axes that no case has."""
    axes = {"family": FAMILIES, "method": METHODS, "targets": TARGETS, "dtype": DTYPES, "shards": SHARDS}
    for one, other in itertools.combinations(axes, 2):
        seen = {(getattr(case, one), getattr(case, other)) for case in cases}
        for pair in itertools.product(axes[one], axes[other]):
            if pair not in seen:
                yield one, pair[0], other, pair[1]


def save_base(folder: Path, case: Case) -> Path:
    """Write the base of a case in its dtype and number of files; return the folder."""
    plain = save_model(folder / "plain", FAMILIES[case.family])
    target = folder / "base"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _load(plain, case.dtype)
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        model.save_pretrained(target, max_shard_size=size + 1 if case.shards == 1 else size // case.shards)
    for path in plain.iterdir():
        if not path.name.endswith((".safetensors", ".index.json")) and not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)
    return target


def save_rows(path: Path) -> Path:
    """Write rows in which no token spans the beginning of a completion; return the path."""
    pairs = [{"prompt": f"count {number}:", "completion": f" {word}"} for number, word in enumerate(tiny.WORDS[:6])]
    return save_jsonl(path, pairs)


def walk(case: Case, folder: Path, options: Callable[[Path], dict[str, Any]] = lambda base: {}) -> Found:
    """Take one case through the product in this process, trained with `options` over its base. Raises AssertionError if
    anything is wrong, and whatever a step raises.
    """
    from sdk.schemas.evaluation import EvaluationSpec
    from sdk.schemas.training import TrainingSpec
    from sdk.validation import build
    from support.evaluated import score
    from support.merges import merge

    base, adapter, merged = save_base(folder, case), folder / "adapter", folder / "merged"
    rows = save_rows(folder / "rows.jsonl")
    usual: dict[str, Any] = {"rank": 4, "max_steps": 4, "lr": 0.02, "batch_size": 3, "grad_accum": 1, "dropout": 0.0}
    spec = build(TrainingSpec, **usual | {"method": case.method, "targets": case.targets} | options(base))
    report = run_training(base, rows, adapter, spec=spec)
    _judged(base, adapter, folder)
    scored = score(base, rows, adapter, spec=EvaluationSpec(generate_rows=1, max_new_tokens=2))
    done = merge(base, adapter, merged, quantization=report.quantization, onto="original", dtype=_merged_dtype(case))
    truth = Truth(base, adapter, rows)
    ours = scored.metrics["loss"]
    assert abs(truth.loss - truth.loss_bare) > 1e-3, f"{case}: the adapter changes nothing"
    found = Found(
        case=case,
        modules=truth.modules,
        loss_bare=truth.loss_bare,
        loss=ours,
        loss_error=abs(ours - truth.loss) / truth.loss,
        merge_error=truth.distance(merged),
    )
    allowed = TOLERANCE[case.dtype]
    assert found.loss_error < allowed, f"{case}: an evaluation's loss is {ours:g}, plain PEFT's {truth.loss:g}"
    assert found.merge_error < allowed, f"{case}: a merged model is {found.merge_error:.2g} from plain PEFT's"
    assert math.isfinite(report.metrics["loss"])
    assert done.read_back.prompts == "run"
    truth.require_rounded_once(merged)
    return found


def _merged_dtype(case: Case) -> Literal["auto", "float32"]:
    """Return the dtype in which a model is merged for the comparison: if a router chooses experts, rounding may choose
    another one.
    """
    return "float32" if FAMILIES[case.family] in ("mixtral", "qwen3-moe") else "auto"


def _judged(base: Path, adapter: Path, folder: Path) -> None:
    """Check an adapter against its base as the registry does."""
    from sdk.formats.adapter_files import WEIGHTS_FILE
    from sdk.pulling.cache import Cache
    from sdk.pushing.base_folder import scan_base
    from sdk.pushing.pack import pack_adapter
    from support.weights import admitted

    registration = scan_base(base, cache=Cache(folder / "cache")).registration
    packed = pack_adapter(
        adapter, base_id="tiny", base_revision=None, base_fingerprint=registration.fingerprint, staging=folder
    )
    shutil.copy(adapter / WEIGHTS_FILE, folder)
    admitted(folder, registration, packed.lora)


class Truth:
    """What plain transformers and PEFT make of a base and an adapter, in float32."""

    def __init__(self, base: Path, adapter: Path, rows: Path) -> None:
        from peft import PeftModel
        from transformers import AutoTokenizer

        self._base, self._adapter = base, adapter
        self._texts = _texts(rows, AutoTokenizer.from_pretrained(base))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = _load(base, "float32")
            self.loss_bare = self._loss(model)
            adapted = PeftModel.from_pretrained(model, adapter).eval()
        self.modules = sum(hasattr(module, "lora_A") and bool(module.lora_A) for module in adapted.modules())
        self.loss = self._loss(adapted)
        self._logits = [self._of(adapted, ids) for ids, _ in self._texts]

    def distance(self, merged: Path) -> float:
        """Return the largest distance of a merged folder's logits, as a share of the largest logit."""
        model = _load(merged, "float32")
        pairs = [(self._of(model, ids), logits) for (ids, _), logits in zip(self._texts, self._logits, strict=True)]
        return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)

    def require_rounded_once(self, merged: Path) -> None:
        """Compare every number of a merged folder with the sum that PEFT computes in float64. Raises AssertionError."""
        import torch
        from peft import PeftModel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = {name: tensor.double() for name, tensor in _load(self._base, "float32").state_dict().items()}
            adapted = PeftModel.from_pretrained(_load(self._base, "float32"), self._adapter).double()
            right, ours = adapted.merge_and_unload().state_dict(), _load(merged, "auto").state_dict()
        assert ours.keys() == right.keys()
        for name, tensor in ours.items():
            wanted, size = right[name], torch.maximum(before[name].abs(), (right[name] - before[name]).abs())
            if tensor.dtype == torch.float32:
                assert bool(((tensor.double() - wanted).abs() <= 2e-6 * (size + 0.1)).all()), name
            else:
                equal = (tensor.double() == wanted.to(tensor.dtype).double()).double()
                # In a small tensor, a few numbers can be more than a thousandth by chance.
                assert float((1 - equal).sum()) <= 2 + 0.001 * equal.numel(), name

    def _loss(self, model: Any) -> float:
        import torch

        total, count = 0.0, 0
        for ids, learnt in self._texts:
            picked = self._of(model, ids)[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            total -= float(picked[learnt - 1 :].sum())
            count += len(ids) - learnt
        return total / count

    def _of(self, model: Any, ids: list[int]) -> Any:
        import torch

        with torch.no_grad():
            return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def _load(folder: Path, dtype: str) -> Any:
    """Load a whole model, with the class that its own config names."""
    import transformers

    (named,) = json.loads((folder / "config.json").read_text())["architectures"]
    return getattr(transformers, named).from_pretrained(folder, dtype=dtype).eval()


def _texts(rows: Path, tokenizer: Any) -> list[tuple[list[int], int]]:
    """Return each row as tokens with the end of text, and where the completion begins in them."""
    found = []
    for line in rows.read_text().splitlines():
        row = json.loads(line)
        prompt = tokenizer(row["prompt"])["input_ids"]
        whole = [*tokenizer(row["prompt"] + row["completion"])["input_ids"], tokenizer.eos_token_id]
        assert whole[: len(prompt)] == prompt
        found.append((whole, len(prompt)))
    return found
