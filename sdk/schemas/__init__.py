"""The types that client, registry and workers share.

A leaf: pydantic and the standard library only. Every model is strict (no coercion) and refuses unknown
fields; a client reads replies with ``extra="ignore"``, so that a server one minor version ahead can send more.

>>> from sdk.formats.refs import Ref
>>> str(Ref.parse("code-review"))
'code-review@latest'
"""
