"""What commands share: output, confirmation, parsing of values, exit codes."""
