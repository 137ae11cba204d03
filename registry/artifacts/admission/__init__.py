"""What an adapter's files must be before a version of them becomes ready."""
