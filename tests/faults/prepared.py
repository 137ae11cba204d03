"""A registry's database, schema and tokens, made in this process: its own commands would each take seconds to import."""

from __future__ import annotations

import json
from contextlib import closing

from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.principal import SYSTEM, Role
from sdk.stack.local_process import write_private
from sdk.stack.postgres import PostgresServer
from sdk.stack.programs import _DATABASE, RegistryServer


def prepare(registry: RegistryServer, postgres: PostgresServer) -> None:
    """Do what `prepare_database` does where nothing is there yet. PostgreSQL must be ready."""
    postgres.create_database(_DATABASE)
    with closing(Database(registry.database_url)) as database:
        database.upgrade()
        tokens = Tokens(database)
        secrets = {
            role.value: tokens.create(name=role.value, grants={"*": role}, who=SYSTEM).secret
            for role in (Role.ADMIN, Role.WORKER)
        }
    write_private(registry._tokens_path, json.dumps(secrets) + "\n")
