"""Names: bases, adapters, versions with their lineage, aliases."""
