"""The versions that a decode loop holds over one base, each proved to answer as PEFT alone lets it answer.

Adapters that consist of LoRA's matrices are wrapped around the modules of one shared tree, and mixed in a batch by row.
Every other has a tree of modules of its own over the same weights (`workers.serving.decoding.trees`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.lora.tensors import open_file
from workers.pipelines.errors import PipelineError, first_line
from workers.pipelines.model.adapters import load_adapter, peft_config_of
from workers.pipelines.model.causality import fixed_texts
from workers.serving.decoding.errors import AdapterRefused, BaseChanged
from workers.serving.decoding.grafts import GraftRefused, cut, graft
from workers.serving.decoding.kinds import Outline, ServedAs, judge
from workers.serving.decoding.passes import BASE, Tree
from workers.serving.decoding.requests import ServedPlacement
from workers.serving.decoding.reused_wrappers import ReusedWrappers
from workers.serving.decoding.trees import Untouched, own_bytes, tree_of

#: How far logits may move, as a share of the largest, because other rows are beside: roundings of the type, and at least so much.
_ROUNDINGS, _LEAST_SHARE = 8, 1e-4
#: How long the text is by which versions are proved: answers in work wait as long as it is read.
_TEXT_TOKENS = 6
_CHANGED = "loading a version changed the base; start the engine again, and report the version's adapter_config.json"
#: How many of the tokens that an adapter trains are put into its text: without any, it might seem to change nothing.
_TRAINED_TOKENS = 8


@dataclass(eq=False)
class HeldVersion:
    """A version that is loaded, or the base."""

    name: str | None
    folder: Path | None
    placement: ServedPlacement
    kinds: tuple[str, ...]
    tree: Tree
    #: PEFT's name for it in its tree.
    label: str
    #: For how many tokens it has an embedding.
    vocabulary: int
    #: The logits after a fixed text, (1, vocabulary), as PEFT alone computes them, and how far they are from the base's, at most.
    truth: Any = field(repr=False)
    effect: float = math.inf


class Adapters:
    """The base and the versions over it.

    `prepare` may be called in any thread while the base decodes, one call at a time; `admit` and `release` only in the
    thread that decodes.
    """

    def __init__(self, model: Any) -> None:
        self._bare = Tree(model)
        self._shared = Tree(tree_of(model))
        #: Of the version that was loaded last, if it shares a batch.
        self._reused: ReusedWrappers | None = None
        self._count = 0
        self._text = fixed_texts(model)[:1, :_TEXT_TOKENS]
        self._embeddings = _embeddings_of(model)
        vocabulary = int(model.get_input_embeddings().weight.shape[0])
        truth = self._logits(self._bare, self._text)
        self.base = HeldVersion(None, None, ServedPlacement.SHARES_A_BATCH, (), self._shared, BASE, vocabulary, truth)

    def prepare(self, name: str, folder: Path) -> HeldVersion:
        """Read a version into a tree of its own, and look that it changes the base's answers, and not the base. Raises
        AdapterRefused, BaseChanged.
        """
        try:
            outline = self._outline(folder)
            verdict = judge(outline)
            self._require_room(verdict.changes, folder)
            again = verdict.placement is ServedPlacement.SHARES_A_BATCH and self._again(folder)
            model = again or self._loaded(folder, verdict)
        except (OSError, ValueError) as error:
            raise AdapterRefused(
                f"its folder can't be read ({first_line(error)}); pull the version again with: adapterctl pull"
            ) from error
        except PipelineError as error:
            raise AdapterRefused(_lower(error.message)) from error
        tree, text = Tree(model), self._text_with(outline.config)
        truth, bare = self._logits(tree, text), self.base.truth
        if not again:
            # PEFT was called.
            bare = self._logits(self._bare, text)
            fixed = bare if text is self._text else self._logits(self._bare, self._text)
            if not torch.equal(fixed, self.base.truth):
                raise BaseChanged(_CHANGED)
        if not bool(torch.isfinite(truth).all()):
            raise AdapterRefused(
                f"it computes numbers that are not finite in {model.dtype}; serve it in float32, or look for the cause with:"
                " adapterctl verify"
            )
        effect = float((truth - bare).abs().max()) if truth.shape == bare.shape else math.inf
        if not effect:
            raise AdapterRefused(
                "it changes nothing of what the base answers; look for the cause with: adapterctl verify"
            )
        vocabulary = int(model.get_input_embeddings().weight.shape[0])
        return HeldVersion(name, folder, verdict.placement, verdict.kinds, tree, BASE, vocabulary, truth, effect)

    def _loaded(self, folder: Path, verdict: ServedAs) -> Any:
        """Return a tree of its own with an adapter that PEFT loads."""
        self._reused = None
        model = tree_of(self._bare.model, verdict.changes)
        with self._unwritten(model):
            loaded = load_adapter(model, folder)
        if verdict.placement is ServedPlacement.SHARES_A_BATCH:
            self._reused = ReusedWrappers(folder, loaded)
        return model

    def _again(self, folder: Path) -> Any:
        """Return the tree of the version that was loaded last with an adapter in its place, if it has the same shape; else None."""
        reused = self._reused
        if reused is None or not reused.fits(folder):
            return None
        with self._unwritten(reused.model):
            reused.take(folder)
        return reused.model

    def _outline(self, folder: Path) -> Outline:
        # Refuses what PEFT must not be given.
        peft_config_of(folder)
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = list(open_file(folder / WEIGHTS_FILE).tensors())
        return Outline(config, tensors, self.base.vocabulary, self._embeddings)

    def admit(self, version: HeldVersion, beside: HeldVersion | None = None) -> HeldVersion:
        """Move a version that was prepared to where it is served; return it as it is served.

        One that shares a batch must answer in it as it does alone, next to the base and a neighbour that answer as
        before; otherwise it keeps the tree of its own.
        """
        if version.placement is not ServedPlacement.SHARES_A_BATCH:
            return version
        self._count += 1
        label = f"version{self._count}"
        mixed = replace(version, tree=self._shared, label=label)
        try:
            graft(version.tree.model, self._shared.model, label)
            self._shared.mix()
            if self._answers_alike([self.base, mixed, *([beside] if beside else [])]):
                return mixed
        except GraftRefused:
            pass
        cut(self._shared.model, label)
        # Its tree is the version's.
        self._reused = None
        return replace(version, placement=ServedPlacement.OWN_BATCH)

    def release(self, version: HeldVersion) -> None:
        """Forget a version."""
        if version.tree is self._shared and version.label != BASE:
            cut(self._shared.model, version.label)
            reused = self._reused
            if reused is not None and reused.folder == version.folder:
                # It has the version's matrices.
                self._reused = None

    @contextmanager
    def _unwritten(self, tree: Any) -> Iterator[None]:
        """Raise BaseChanged if what is done to a tree of modules writes to the base's weights."""
        untouched = Untouched(self._bare.model, tree)
        try:
            yield
        finally:
            if not untouched.holds():
                raise BaseChanged(_CHANGED)

    def _answers_alike(self, versions: list[HeldVersion]) -> bool:
        """Whether versions that share a batch answer together as each does alone."""
        labels = [version.label for version in versions]
        try:
            logits = self._logits(self._shared, self._text.repeat(len(versions), 1), labels)
        except (RuntimeError, ValueError, TypeError, IndexError):
            # A module whose input isn't (rows, …), as experts' are.
            return False
        roundings = max(_LEAST_SHARE, _ROUNDINGS * torch.finfo(self._shared.model.dtype).eps)
        for found, version in zip(logits, versions, strict=True):
            # An adapter whose effect is as small as roundings could be taken for the base.
            allowed = min(roundings * float(version.truth.abs().max()), version.effect / 2)
            # Also true for NaN.
            if not float((found - version.truth).abs().max()) <= allowed:
                return False
        return True

    def _text_with(self, config: Mapping[str, Any]) -> Any:
        trained = config.get("trainable_token_indices") or []
        ids = {token for each in (trained.values() if isinstance(trained, Mapping) else [trained]) for token in each}
        more = torch.tensor([sorted(ids)[-_TRAINED_TOKENS:]], dtype=self._text.dtype, device=self._text.device)
        known = more[:, (more < self.base.vocabulary)[0]]
        return torch.cat([known, self._text], dim=1) if known.numel() else self._text

    def _logits(self, tree: Tree, text: Any, names: list[str] | None = None) -> Any:
        """Return the logits, (rows, vocabulary), of the token after each text."""
        rows = text.shape[0]
        return tree.read(text, None, names=names or [BASE] * rows, lengths=[0] * rows, width=0)[:, -1]

    def _require_room(self, changes: Any, folder: Path) -> None:
        from workers.main_memory import main_memory

        needed = own_bytes(self._bare.model, changes) + 2 * (folder / WEIGHTS_FILE).stat().st_size
        available = main_memory().available_bytes
        if self._bare.model.device.type == "cpu" and needed > available:
            raise AdapterRefused(
                f"it needs {needed / 1e6:.0f} MB of memory and {available / 1e6:.0f} MB are available; release other versions"
                " first"
            )


def _embeddings_of(model: Any) -> frozenset[str]:
    """Return the names of the parameters of a model's embedding and of its head."""
    ends = [each for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each is not None]
    return frozenset(
        f"{name}.{of}"
        for name, module in model.named_modules()
        if any(module is each for each in ends)
        for of, _ in module.named_parameters(recurse=False)
    )


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:].removesuffix(".")
