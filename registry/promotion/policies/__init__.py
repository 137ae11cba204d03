"""Policies: what must hold before an alias moves, for an adapter, a namespace or all, in versions."""
