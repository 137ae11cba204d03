"""What gateways ask: which version each name means now, and what the holder of a token may do."""
