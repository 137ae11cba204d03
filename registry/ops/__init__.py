"""`adapter-registry`, its checks and its backups."""
