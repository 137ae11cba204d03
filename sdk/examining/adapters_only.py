"""What is found out about adapters alone: a merged model is refused before its gigabytes are fetched."""

from __future__ import annotations

from sdk.errors import InvalidInput


def require_adapter(ref: str, kind: str, consequence: str, *, param: str = "ref") -> None:
    """Raise InvalidInput for a version that is no adapter; `consequence` is a clause that ends with what to do.

    >>> require_adapter("a@v1", "adapter", "it has no ΔW")
    >>> require_adapter("m@v1", "merged", "it has no ΔW; see its adapter: adapterctl lineage m@v1 --up")
    Traceback (most recent call last):
    sdk.errors.InvalidInput: m@v1 is a merged model and no adapter, so it has no ΔW; see its adapter: adapterctl lineage m@v1 --up
    """
    if kind != "adapter":
        raise InvalidInput(f"{ref} is a {kind} model and no adapter, so {consequence}", param=param)
