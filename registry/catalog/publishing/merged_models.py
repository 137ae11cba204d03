"""Admission of merged models: a merged model must be whole, and equal to its base except for what its adapter changes.

That is read from the config, the index and the headers. The numbers are checked when the merge reads its result back:
they are gigabytes, and the registry can't compute what the adapter would make of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from registry.artifacts.admission.expected_shapes import EMBEDDINGS, Place
from registry.artifacts.service import Artifacts
from registry.catalog.bases.deriving import Derived, read_model
from registry.catalog.bases.finding import KnownBase
from registry.catalog.publishing.inspecting import refuse_code
from registry.errors import Invalid, Verification
from sdk.formats.base_files import TOKENIZER_FILES, BadBaseError, is_buffer, stable_config
from sdk.formats.packed_weights import wide_shapes
from sdk.schemas.manifest import Manifest

_ADVICE = "merge it again, with a worker of this release"
#: What a merge may change in a config, and in its part for the text model.
_DTYPE, _VOCABULARY, _TIED = ("dtype", "torch_dtype"), "vocab_size", "tie_word_embeddings"
_QUANTIZATION = ("quantization_config", "compression_config")
#: What the config of a classification has in addition.
_LABELLED = ("architectures", "id2label", "label2id", "pad_token_id", "problem_type")


class MergedFrom(NamedTuple):
    """What is known about the adapter that was merged."""

    #: Whether it is a classification, whose head replaces the one that predicts tokens.
    classifies: bool
    #: How many tensors the merge has read back.
    tensors: int
    #: For how many tokens it has embeddings, if that differs from the base.
    vocabulary: int | None
    #: The expected SHA-256 of the files that say how text becomes tokens, by name; None if the base's are not here.
    tokenizer: Mapping[str, frozenset[str]] | None
    #: How many rows the vocabulary must have for the tokens that are trained; it grows if it has fewer.
    rows: int = 0

    def grown(self, before: Any) -> int | None:
        """Return how many rows a vocabulary has after it grew; None if it did not."""
        return self.rows if isinstance(before, int) and before < self.rows else None


def require_model_files(manifest: Manifest) -> None:
    """Raise Invalid or Verification for a manifest that can't be a merged model's."""
    if manifest.kind != "merged":
        raise Invalid("a merged model needs a manifest of the kind 'merged'", param="manifest.kind")
    refuse_code(manifest)


def inspect_model(artifacts: Artifacts, manifest: Manifest, base: KnownBase, made: MergedFrom) -> list[str]:
    """Read what a merged model's verified files say, and judge it; return warnings.

    Raises Verification, also if the model is not whole.
    """
    try:
        model = read_model(artifacts, manifest)
    except BadBaseError as error:
        raise Verification(f"this is not a whole model: {error}; {_ADVICE}", param="manifest") from error
    return judge_model(model, manifest, base, made)


def judge_model(model: Derived, manifest: Manifest, base: KnownBase, made: MergedFrom) -> list[str]:
    """Check a merged model against its base; return warnings. Raises Verification if it isn't what its adapter makes of
    the base.
    """
    if len(model.tensors) != made.tensors:
        raise Verification(
            f"the model has {len(model.tensors)} tensors, and its merge has read back {made.tensors}; {_ADVICE}",
            param="merge.report",
        )
    _judge_tokenizer(manifest, made)
    if base.config:
        _judge_config(model.config, base, made)
    if not base.tensors:
        said = base.hidden or "was registered without its shapes"
        return [f"the model's shapes could not be checked: base {base.brief.id} {said}"]
    _judge_tensors(model, base, made)
    return []


def _judge_tokenizer(manifest: Manifest, made: MergedFrom) -> None:
    """Raise Verification for a tokenizer that is not the base's, or a template that is not the adapter's either."""
    for file in manifest.files:
        known = None if made.tokenizer is None else made.tokenizer.get(file.path, frozenset())
        if file.path in TOKENIZER_FILES and known is not None and file.sha256 not in known:
            raise Verification(f"{file.path} is neither the base's nor the adapter's; {_ADVICE}", param="manifest")


def _judge_config(config: Mapping[str, Any], base: KnownBase, made: MergedFrom) -> None:
    """Raise Verification for a config with a change that no merge makes."""
    was, now = stable_config(base.config), stable_config(config)
    changeable = {*_DTYPE, _VOCABULARY, _TIED, *_QUANTIZATION, *(_LABELLED if made.classifies else ())}
    for part, before, after in (("", was, now), ("text_config.", _text(was), _text(now))):
        free = changeable | {"_name_or_path"} | ({"text_config"} if not part and _text(was) else set())
        for key in sorted({*before, *after} - free):
            if key not in before or key not in after or before[key] != after[key]:
                raise _unlike(f"{part}{key}", base)
        for key in _QUANTIZATION:
            if key in after:
                raise Verification(
                    f"config.json says {part}{key}, and a merged model is stored wide; {_ADVICE}", param="manifest"
                )
        if after.get(_VOCABULARY) not in (
            before.get(_VOCABULARY),
            made.vocabulary,
            made.grown(before.get(_VOCABULARY)),
        ):
            raise _unlike(f"{part}{_VOCABULARY}", base)
        if after.get(_TIED) not in (before.get(_TIED), False):
            raise _unlike(f"{part}{_TIED}", base)


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config for the text model, if it has one."""
    part = config.get("text_config")
    return part if isinstance(part, Mapping) else {}


def _unlike(key: str, base: KnownBase) -> Verification:
    return Verification(
        f"config.json says another {key} than base {base.brief.id}, which no merge changes; {_ADVICE}", param="manifest"
    )


def _judge_tensors(model: Derived, base: KnownBase, made: MergedFrom) -> None:
    """Raise Verification for tensors that are not the base's; only a head that was untied, or added to classify, may be
    new.
    """
    expected, found = wide_shapes(base.tensors), model.tensors
    for name, shape in expected.items():
        if name not in found:
            if made.classifies and (Place.of(name) is None or is_buffer(name, shape)):
                # It predicted tokens, or isn't part of the model.
                continue
            raise Verification(f"the tensor {name!r} of base {base.brief.id} is missing; {_ADVICE}", param="manifest")
        if found[name] not in _shapes(name, shape, base, made):
            said, has = "×".join(map(str, found[name])), "×".join(map(str, shape))
            raise Verification(
                f"the tensor {name!r} is {said}, and that of base {base.brief.id} is {has}; {_ADVICE}", param="manifest"
            )
    new = sorted(found.keys() - expected.keys())
    for name in new:
        if not _is_embedding(name) and not (made.classifies and Place.of(name) is None):
            raise Verification(f"base {base.brief.id} has no tensor {name[:200]!a}; {_ADVICE}", param="manifest")
    said_untied = (model.config.get(_TIED), _text(model.config).get(_TIED))
    was_tied = (base.config.get(_TIED), _text(base.config).get(_TIED))
    matrices = sum(_is_embedding(name) and name.endswith(".weight") for name in found)
    if said_untied != was_tied and matrices < 2 and not made.classifies:
        raise Verification(f"config.json unties the embeddings, and there is no tensor of a head; {_ADVICE}")


def _shapes(name: str, shape: list[int], base: KnownBase, made: MergedFrom) -> list[list[int]]:
    """The shapes that one of the base's tensors may have in the merged model."""
    shapes = [shape]
    if _is_embedding(name) and shape:
        shapes += [[rows, *shape[1:]] for rows in (made.vocabulary, made.grown(shape[0])) if rows is not None]
    if base.packing is not None and len(shape) == 2:
        # The 4 bits of a Conv1D are stored transposed.
        shapes.append(shape[::-1])
    return shapes


def _is_embedding(name: str) -> bool:
    """Whether a tensor has a row for each token."""
    module, _, kind = name.rpartition(".")
    return kind in ("weight", "bias") and module.rpartition(".")[2] in EMBEDDINGS
