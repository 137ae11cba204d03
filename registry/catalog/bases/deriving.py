"""What the registry itself finds out about a base, from bytes that it has verified.

The small files are read whole, but only the headers of the weights: their gigabytes were hashed once, when they
arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock
from typing import IO, Any, NamedTuple, cast

from registry.artifacts.service import Artifacts
from registry.errors import Verification
from sdk.formats.base_files import (
    CONFIG_FILE,
    INDEX_FILE,
    MAX_CONFIG_BYTES,
    MAX_INDEX_BYTES,
    BadBaseError,
    BaseIdentity,
    check_files,
    check_index,
    identify,
    read_config,
    read_index,
    stable_config,
    weight_files,
)
from sdk.formats.base_references import REFERRING_FILES, check_references
from sdk.formats.packed_weights import (
    WeightFile,
    check_packing,
    read_states,
    read_weights,
    require_few_states,
    shapes_of,
)
from sdk.formats.safetensors import SafetensorsError, read_header
from sdk.lora.planning.config_faults import config_fault
from sdk.schemas.manifest import Manifest, ManifestFile

#: A header of many megabytes takes many times that in memory, so only one file is looked into at a time.
_one_at_a_time = Lock()


class Derived(NamedTuple):
    """What the files of a model say. If it is a base, that is true of its fingerprint for everybody."""

    config: dict[str, Any]
    #: The shape of each tensor, by name.
    tensors: dict[str, list[int]]
    size_bytes: int


def check_proof(manifest: Manifest, config: Mapping[str, Any], fingerprint: str) -> BaseIdentity:
    """Return what a manifest and a config prove.

    Raises Verification if it is another base than they say, or no model can have this config.
    """
    digests = {file.path: file.sha256 for file in manifest.files}
    try:
        check_files(digests)
        if (fault := config_fault(config)) is not None:
            raise BadBaseError(f"{CONFIG_FILE} {fault}")
        identity = identify(config, digests)
    except BadBaseError as error:
        raise Verification(f"this is not a base: {error}; download or save it again, then add it again") from error
    if identity.fingerprint != fingerprint or manifest.base_fingerprint != fingerprint:
        raise Verification(
            f"these files have the fingerprint {identity.fingerprint[:12]}, not {fingerprint[:12]}; add the base again",
            param="fingerprint",
        )
    return identity


def derive(artifacts: Artifacts, manifest: Manifest) -> Derived:
    """Read what a base's verified files say of it.

    Raises Verification, also for an index that contradicts the headers, or a file that refers to something outside.
    """
    try:
        model = read_model(artifacts, manifest, lambda config: check_proof(manifest, config, manifest.base_fingerprint))
    except BadBaseError as error:
        raise Verification(f"this is not a base: {error}; download or save it again, then add it again") from error
    return model._replace(config=stable_config(model.config))


def read_model(
    artifacts: Artifacts, manifest: Manifest, check: Callable[[Mapping[str, Any]], object] = lambda config: None
) -> Derived:
    """Read what the verified files of a whole model say of it; `check` sees the config before anything else is read.

    Raises BadBaseError if they aren't a whole model, or contradict each other, Verification if one can't be read.
    """
    files = {file.path: file for file in manifest.files}
    # The cheap check comes first: a stranger's index is not parsed if the files can't be a base's.
    check_files(files)
    config = read_config(_whole(artifacts, files[CONFIG_FILE], MAX_CONFIG_BYTES))
    check(config)
    for name in sorted(REFERRING_FILES.keys() & files.keys()):
        raw = _whole(artifacts, files[name], REFERRING_FILES[name])
        with _one_at_a_time:
            check_references(name, raw)
    looked_into: dict[str, WeightFile] = {}
    for sha256, file in {files[name].sha256: files[name] for name in weight_files(files)}.items():
        with _one_at_a_time:
            looked_into[sha256] = _look_into(artifacts, file)
        require_few_states(looked_into.values())
    held = {name: looked_into[files[name].sha256] for name in weight_files(files)}
    if INDEX_FILE in files:
        raw = _whole(artifacts, files[INDEX_FILE], MAX_INDEX_BYTES)
        with _one_at_a_time:
            check_index(read_index(raw), {name: file.shapes for name, file in held.items()})
    said: dict[str, list[int]] = {}
    for sha256, weights in looked_into.items():
        if weights.states:
            # There are as many reads as packed weights, but only the caller waits for them.
            said |= read_states(weights, artifacts.parts(sha256))
    tensors = shapes_of(looked_into.values(), said)
    check_packing(config, tensors)
    return Derived(config, tensors, manifest.size_bytes)


def _whole(artifacts: Artifacts, file: ManifestFile, most_bytes: int) -> bytes:
    """Return a small file's bytes, hashed while they are read. Raises Verification."""
    if file.size_bytes > most_bytes:
        raise Verification(f"{file.path} is longer than {most_bytes // 1024} KiB, too long for a file of a base")
    with artifacts.reading(file.sha256) as passing:
        raw = passing.read(file.size_bytes + 1)
    if len(raw) != file.size_bytes or passing.sha256 != file.sha256:
        raise Verification(f"{file.path} can't be read back from storage as it was sent; add the base again")
    return raw


def _look_into(artifacts: Artifacts, file: ManifestFile) -> WeightFile:
    """What the header of a weight file says. Raises BadBaseError."""
    try:
        with artifacts.reading(file.sha256) as passing:
            header = read_header(cast(IO[bytes], passing), file.size_bytes, called="it", any_dtype=True)
    except SafetensorsError as error:
        raise BadBaseError(
            f"{file.path} is not a complete safetensors file of a model's weights ({error.reason})"
        ) from error
    return read_weights(header)
