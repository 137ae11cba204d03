"""What is exported: a version in the registry, or a folder; and the base that it is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from sdk.config import user_path
from sdk.errors import InvalidInput
from sdk.exporting import gguf, plain
from sdk.exporting.cards import folder_with_card
from sdk.exporting.gguf import GgufOptions
from sdk.exporting.running import Exported, ExportedLora
from sdk.formats.refs import namespace_of
from sdk.names import means_folder, or_folder, parse_ref
from sdk.objects import Registry, Version
from sdk.pushing.given_base import GivenBase, files_here, registered_base
from sdk.schemas.catalog import VersionView
from sdk.schemas.export import GgufDtype
from sdk.validation import require_adapter


def export_gguf(
    registry: Registry,
    target: str | Path,
    output: str | Path,
    *,
    base: GivenBase | None,
    tokenizer_from: str | Path | None,
    **how: Unpack[GgufOptions],
) -> Exported:
    """Write an adapter, or a merged model, as a new GGUF file; see `VersionsAPI.export`."""
    _require_target(target)
    if how["ollama_base"] is not None and not how["modelfile"]:
        raise InvalidInput("a base in Ollama is for a Modelfile; give --modelfile too", param="modelfile")
    folder = user_path(target)
    if not means_folder(target):
        return _export_version(registry, str(target), output, base, tokenizer_from, how)
    if gguf.is_adapter(folder):
        if base is None:
            raise InvalidInput(f"{folder} is an adapter; say which base it was trained over with --base", param="base")
        _no_tokenizer(tokenizer_from)
        config, base_name = _base_config(registry, base)
        name = folder.resolve().name
        return gguf.export_adapter(folder, output, base_config=config, name=name, base_name=base_name, **how)
    if base is not None:
        raise InvalidInput(f"{folder} is a whole model, which needs no base; leave --base out", param="base")
    return gguf.export_model(folder, output, tokenizer_from=tokenizer_from, **how)


def _export_version(
    registry: Registry,
    ref: str,
    output: str | Path,
    base: GivenBase | None,
    tokenizer_from: str | Path | None,
    how: GgufOptions,
) -> Exported:
    with or_folder(ref):
        version = registry.get(str(parse_ref(ref)))
    if version.info.kind == "merged":
        if base is not None:
            raise InvalidInput(f"{version.ref} is a whole model, which needs no base; leave --base out", param="base")
        model = _pulled(registry, version)
        return gguf.export_model(model, output, name=version.ref, tokenizer_from=tokenizer_from, **how)
    _no_tokenizer(tokenizer_from)
    if base is not None:
        registry.pusher.require_base(version.info, base)
    config, base_name = _base_config(
        registry,
        GivenBase(version.info.base.fingerprint) if base is None else base,
        namespace_of(version.info.adapter) or "-",
    )
    folder = _pulled(registry, version)
    return gguf.export_adapter(folder, output, base_config=config, name=version.ref, base_name=base_name, **how)


def export_plain(
    registry: Registry,
    target: str | Path,
    output: str | Path,
    *,
    rank: int | None,
    base: GivenBase | None,
    dtype: GgufDtype | None,
) -> ExportedLora:
    """Write an adapter as a plain LoRA into a new folder; see `VersionsAPI.export_plain`."""
    _require_target(target)
    if means_folder(target):
        folder = user_path(target)
        if not gguf.is_adapter(folder):
            raise InvalidInput(f"{folder} is a model; give a ref, or the folder of an adapter", param="target")
        known = None if base is None else _base_folder(registry, base, None)
        return plain.export_plain_lora(folder, output, rank=rank, dtype=dtype, base=known)
    with or_folder(str(target)):
        version = registry.get(str(parse_ref(str(target))))
    require_adapter(
        version.ref,
        version.info.kind,
        f"there is no LoRA of it; export its adapter: adapterctl lineage {version.ref} --up",
        param="target",
    )
    if base is not None:
        registry.pusher.require_base(version.info, base)
    folder = _pulled(registry, version)
    return plain.export_plain_lora(
        folder,
        output,
        rank=rank,
        dtype=dtype,
        base=_base_folder(registry, base, version.info) if plain.needs_base(folder, rank) else None,
        quantization=version.info.quantization,
        version=version.info,
        licensed=folder_with_card(registry, version.info),
    )


def _pulled(registry: Registry, version: Version) -> Path:
    """Return the folder of a version, fetched by its digest: the version that was looked up, even if the ref moved."""
    return registry.puller.pull(f"{version.info.adapter}@sha256:{version.digest}").path


def _base_folder(registry: Registry, base: GivenBase | None, version: VersionView | None) -> Path | None:
    """Return the folder of a base, by default that of a version; None if its files are not on this machine."""
    if base is not None and base.folder is not None:
        return base.folder
    if version is not None:
        return files_here(registry.cache, version.base.fingerprint, registered_base(registry.transport, version))
    if base is None:
        return None
    view = base.find(registry.transport)
    return files_here(registry.cache, view.fingerprint, view)


def _base_config(registry: Registry, base: GivenBase, namespace: str | None = None) -> tuple[dict[str, Any], str]:
    """Return the config of a base and what it is called. Raises NotFound, InvalidBase."""
    if base.folder is not None:
        return gguf.config_of(base.folder), base.folder.resolve().name
    view = base.find(registry.transport, namespace=namespace)
    return view.config or {}, view.id


def _require_target(target: str | Path) -> None:
    if target == "":
        raise InvalidInput(
            "nothing is named to export; give a ref, or the folder of an adapter or model", param="target"
        )


def _no_tokenizer(given: str | Path | None) -> None:
    if given is not None:
        raise InvalidInput("an adapter's file has no tokenizer; leave --tokenizer-from out", param="tokenizer_from")
