"""Fills a registry's PostgreSQL with as many versions as a large company has, in minutes, all of it in SQL.

    python benchmarks/seeding.py postgresql://user@host/name 1000000 20000

The rows are what publishing writes: the answer of `resolve` of one real version, with other names and digests. Their
blobs are in no storage. Needs a registry that holds the base `tiny` and the version `bench@production` (`adapters.seed`).
"""

from __future__ import annotations

import json
import sys
from typing import Any

from sqlalchemy import Connection, text

from registry.db.database import Database
from registry.deadlines import Timeouts

#: Bases that the versions are spread over, and their ranks.
BASES = 8
RANKS = (4, 8, 16, 32)
NAMESPACES = 50
#: Blobs that the manifests share.
_BLOBS = 1000


def seed_rows(database_url: str, versions: int, adapters: int) -> None:
    """Insert `versions` ready versions, evenly over `adapters` adapters, each of which has an alias `production`."""
    # Millions of rows in one statement.
    db = Database(database_url, Timeouts(statement_s=3600, deadline_s=3600))
    per_adapter = versions // adapters
    with db.engine.begin() as connection:
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        given = {**_template(connection), "adapters": adapters, "each": per_adapter, "spaces": NAMESPACES}
        for statement in _STATEMENTS:
            connection.execute(text(statement), {key: given[key] for key in given if f"CAST(:{key} " in statement})
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    db.close()


def _template(connection: Connection) -> dict[str, Any]:
    """What the rows of the one real version say, with marks where its own names stand."""
    row = connection.execute(
        text(
            "SELECT v.pk, v.digest, v.lora, v.quantization, v.base_pk, d.body, m.body AS manifest, m.size_bytes "
            "FROM versions v JOIN adapters a ON a.pk = v.adapter_pk JOIN version_documents d ON d.version_pk = v.pk "
            "JOIN manifests m ON m.digest = v.digest WHERE a.name = 'bench' AND v.number = 1"
        )
    ).one()
    document = json.loads(row.body)
    document |= {"ref": "@REF@", "adapter": "@ADAPTER@", "digest": "@DIGEST@", "aliases": []}
    body = json.dumps(document).replace('"number": 1', '"number": @NUMBER@', 1)
    return {
        "document": body,
        "manifest": row.manifest,
        "size": row.size_bytes,
        "lora": json.dumps(row.lora),
        "base": row.base_pk,
    }


_STATEMENTS = (
    f"INSERT INTO bases (id, revision, fingerprint, weights_digest, architecture, location, config, tensors, size_bytes, "
    "manifest_digest, created_by, created_at) SELECT 'base-' || i, revision, encode(sha256(('base' || i)::bytea), 'hex'), "
    "encode(sha256(('weights' || i)::bytea), 'hex'), architecture, NULL, config, tensors, size_bytes, NULL, 'seed', now() "
    f"FROM bases, generate_series(1, {BASES}) i WHERE pk = CAST(:base AS integer)",
    "INSERT INTO named_bases (namespace, base_pk, id, revision, location, manifest_digest, weights_digest, architecture, "
    "config, tensors, size_bytes, facts, created_by, created_at, named_at, edition) SELECT '*', pk, id, revision, location, "
    "NULL, weights_digest, architecture, config, tensors, size_bytes, 'claimed', created_by, created_at, created_at, 0 "
    "FROM bases WHERE created_by = 'seed'",
    "INSERT INTO blobs (sha256, size_bytes, created_at) "
    f"SELECT encode(sha256(('blob' || i)::bytea), 'hex'), 1000, now() FROM generate_series(1, {_BLOBS}) i",
    "INSERT INTO adapters (name, namespace, last_number, latest_number, ready_versions, size_bytes, created_by, created_at, "
    "updated_at) SELECT 'ns' || (i % CAST(:spaces AS integer)) || '/adapter-' || i, 'ns' || (i % CAST(:spaces AS integer)), CAST(:each AS integer), CAST(:each AS integer), CAST(:each AS integer), "
    "CAST(:size AS integer) * CAST(:each AS integer), 'seed', now(), now() FROM generate_series(1, CAST(:adapters AS integer)) i",
    # In the order in which time would have brought them: every adapter's first version, then every second one.
    "CREATE TEMPORARY TABLE seeded ON COMMIT DROP AS SELECT a.pk AS adapter_pk, a.name, a.namespace, n AS number, "
    "encode(sha256((a.name || ':' || n)::bytea), 'hex') AS digest, row_number() OVER (ORDER BY n, a.pk) AS i "
    "FROM adapters a, generate_series(1, CAST(:each AS integer)) n WHERE a.created_by = 'seed'",
    "INSERT INTO manifests (digest, kind, body, size_bytes, created_at) "
    "SELECT digest, 'adapter', CAST(:manifest AS text), CAST(:size AS integer), now() FROM seeded",
    "INSERT INTO manifest_blobs (manifest_digest, sha256) SELECT digest, encode(sha256(('blob' || (1 + (i + k) % "
    f"{_BLOBS}))::bytea), 'hex') FROM seeded, generate_series(1, 2) k",
    "INSERT INTO manifest_access (manifest_digest, namespace) SELECT digest, namespace FROM seeded",
    "INSERT INTO versions (adapter_pk, number, digest, manifest_digest, state, kind, base_pk, base_id, base_revision, "
    "base_weights_digest, base_architecture, lora, rank, method, "
    "quantization, tags, description, unknown, created_by, created_at, moved_at) "
    "SELECT s.adapter_pk, s.number, s.digest, s.digest, 'ready', 'adapter', b.pk, b.id, b.revision, b.weights_digest, b.architecture, CAST(:lora AS json), "
    f"(ARRAY[{', '.join(map(str, RANKS))}])[1 + (s.i % {len(RANKS)})], 'qlora', NULL, "
    "json_build_object('language', 'l' || (s.i % 100)), '', '[]', 'user-' || (s.i % 500), "
    "now() - (interval '1 second' * (2000000 - s.i)), now() "
    f"FROM seeded s JOIN bases b ON b.id = 'base-' || (1 + (s.i / {len(RANKS)}) % {BASES}) ORDER BY s.i",
    "INSERT INTO version_origins (version_pk, job, attempt, dataset_digest, dataset, training, metrics, libraries, "
    "created_by, created_at) SELECT pk, NULL, NULL, NULL, NULL, NULL, '{\"loss\": 1.25}', '{}', created_by, created_at "
    "FROM versions WHERE adapter_pk IN (SELECT adapter_pk FROM seeded) ORDER BY pk",
    "INSERT INTO version_targets (version_pk, module) SELECT v.pk, m FROM versions v, unnest(ARRAY['q_proj', 'v_proj']) m "
    "WHERE v.adapter_pk IN (SELECT adapter_pk FROM seeded)",
    "INSERT INTO version_tags (version_pk, key, value) SELECT pk, 'language', tags ->> 'language' FROM versions "
    "WHERE adapter_pk IN (SELECT adapter_pk FROM seeded)",
    'INSERT INTO version_documents (version_pk, body, "foreign") SELECT v.pk, '
    "replace(replace(replace(replace(CAST(:document AS text), '@REF@', s.name || '@v' || s.number), '@ADAPTER@', s.name), "
    "'@DIGEST@', s.digest), '@NUMBER@', s.number::text), false "
    "FROM versions v JOIN seeded s ON s.adapter_pk = v.adapter_pk AND s.number = v.number ORDER BY v.pk",
    "INSERT INTO aliases (adapter_pk, name, version_pk, moved_by, moved_at) SELECT v.adapter_pk, 'production', v.pk, "
    "'seed', now() FROM versions v WHERE v.number = CAST(:each AS integer) AND v.adapter_pk IN (SELECT adapter_pk FROM seeded)",
    "INSERT INTO alias_moves (adapter_pk, alias, kind, from_number, to_number, reason, moved_by, moved_at) "
    "SELECT adapter_pk, name, 'set', NULL, CAST(:each AS integer), '', 'seed', now() FROM aliases WHERE moved_by = 'seed'",
    "INSERT INTO usage (namespace, adapters, versions_bytes) SELECT namespace, count(*), sum(size_bytes) FROM adapters "
    "WHERE created_by = 'seed' GROUP BY namespace",
    "INSERT INTO audit_entries (at, actor, action, namespace, subject) SELECT now(), 'seed', 'version.publish', namespace, "
    "name || '@v' || number FROM seeded ORDER BY i",
)


if __name__ == "__main__":
    seed_rows(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
