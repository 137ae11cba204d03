"""Which version, or base, a ref names now, and whether it can be asked; its files are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sdk.api import versions
from sdk.api.transport import Transport
from sdk.asking.programs import EngineBase
from sdk.asking.target import BASE, AskTarget
from sdk.errors import Conflict, InvalidInput, NotFound
from sdk.formats.adapter_files import RENDERING_FILE, TEMPLATE_FILE
from sdk.names import parse_ref_or_member
from sdk.pulling.cache import Cache
from sdk.pulling.pins import require_pinned
from sdk.pulling.puller import Puller
from sdk.pushing.given_base import files_here, given_base_if_any, registered_base
from sdk.pushing.pack import template_in_config
from sdk.pushing.pusher import no_such_base
from sdk.schemas.catalog import KEPT, VersionView
from sdk.schemas.recorded import Rendering
from sdk.schemas.wire import read_json
from sdk.submitting.data_preview import base_of
from sdk.validation import require_adapter


class AskReach(Protocol):
    """What a client has."""

    @property
    def transport(self) -> Transport:
        """To its registry."""

    @property
    def cache(self) -> Cache:
        """Of this machine."""

    @property
    def puller(self) -> Puller:
        """Into the cache."""


def find_target(reach: AskReach, ref: str, *, dtype: str | None) -> AskTarget:
    """Return what a ref names now; its files are fetched.

    Raises InvalidName, InvalidRef, InvalidInput for what can't be asked, NotFound, Conflict for a version in quarantine.
    """
    parsed = parse_ref_or_member(ref)
    version = versions.resolve(reach.transport, str(parsed))
    require_pinned(parsed, version.adapter, version.number, version.digest)
    require_askable(version)
    folder = base_of(reach.transport, reach.cache, version, param="ref")
    adapter = reach.puller.fill_cache(version.manifest)
    registered = registered_base(reach.transport, version)
    used = _recorded(version) or _beside(adapter)
    rendering = used or Rendering()
    own, bases = _template(adapter), _template(folder)
    return AskTarget(
        ref=version.ref,
        base=EngineBase(
            id=version.base.id,
            fingerprint=version.base.fingerprint,
            folder=str(folder),
            size_bytes=0 if registered is None else registered.size_bytes,
            dtype=dtype,
            quantization=None if version.quantization is None else version.quantization.model_dump(mode="json"),
        ),
        digest=version.digest,
        folder=str(adapter),
        conversations=None if used is None else bool(used.templates),
        own_template=own is not None,
        base_template=bases is not None,
        template_differs=own is not None and own != bases,
        stop_ids=tuple(rendering.stop_ids),
        day=rendering.template_date,
    )


def require_askable(version: VersionView) -> None:
    """Raise InvalidInput for a version that writes no text, Conflict for one in quarantine."""
    ref = version.ref
    require_adapter(
        ref,
        version.kind,
        f"there is no base to put it on; pull it and run the model, or ask its adapter, which is named by: adapterctl lineage {ref} --up",
    )
    if version.state == "quarantined":
        raise Conflict(
            f"{ref} is in quarantine ({version.refusal}); an admin can release it with: adapterctl release {ref}",
            param="ref",
        )
    if version.state not in ("ready", "archived", KEPT):
        raise Conflict(f"{ref} is {version.state}; ask a version that is ready: adapterctl versions {version.adapter}")
    labels = None if version.dataset is None else version.dataset.labels
    if labels is not None or version.record.objective == "classify" or version.lora.task_type == "SEQ_CLS":
        raise InvalidInput(
            f"{ref} is a classification and writes no text; its labels for rows are shown by: adapterctl eval {ref} --data FILE",
            param="ref",
        )


def find_base(
    reach: AskReach, ref: str, *, dtype: str | None, base_namespace: str | None, published: bool | None
) -> AskTarget:
    """Return the bare base that `base:ID` names; the last two say whose it is.

    Raises InvalidInput, also if these are given with a version; NotFound.
    """
    name = ref.removeprefix(BASE) if ref.startswith(BASE) else None
    given = given_base_if_any(name, base_namespace, published)
    assert name is not None
    assert given is not None
    try:
        view = given.find(reach.transport)
    except NotFound:
        raise no_such_base(name) from None
    folder = files_here(reach.cache, view.fingerprint, view)
    if folder is None:
        raise NotFound(
            f"the files of base {view.id} are not on this machine as they were registered; say where they are with: "
            f"adapterctl base fix {view.id} --location file:///FOLDER",
            param="ref",
        )
    base = EngineBase(view.id, view.fingerprint, str(folder), view.size_bytes, dtype, None)
    return AskTarget(f"{BASE}{view.id}", base, base_template=_template(folder) is not None)


def _recorded(version: VersionView) -> Rendering | None:
    return None if version.dataset is None else version.dataset.rendering


def _beside(adapter: Path) -> Rendering | None:
    """Return what comes with an adapter that was trained elsewhere by adapterctl; None without that, or if it can't be read."""
    try:
        return read_json(Rendering, (adapter / RENDERING_FILE).read_bytes())
    except (OSError, ValueError):
        return None


def _template(folder: Path) -> str | None:
    """Return the chat template in the folder of an adapter or a base; None without one."""
    try:
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return template_in_config(folder)
    except ValueError:
        # The program says what is wrong with it.
        return ""
