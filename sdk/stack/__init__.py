"""The stack on one machine: PostgreSQL, Valkey, SeaweedFS, the registry and workers, started from installed wheels.

`control` is what a command uses; `supervisor` is the process that starts the parts and keeps them running.
"""
