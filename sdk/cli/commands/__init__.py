"""One file for each noun, one small function for each command: options, one call of the SDK, one call for the output."""
