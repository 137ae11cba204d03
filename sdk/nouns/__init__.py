"""The nouns of a client that need files of this machine too: their other calls are in `sdk.api`."""
