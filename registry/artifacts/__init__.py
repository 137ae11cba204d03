"""Bytes by content: upload sessions, verified blobs, manifests. Nothing here knows about names."""
