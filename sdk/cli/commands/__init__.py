"""One file a noun, one small function a command: options, one call of the SDK, one call for the output."""
