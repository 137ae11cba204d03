"""Quotas: how many adapters, bytes and waiting jobs a namespace may have."""
