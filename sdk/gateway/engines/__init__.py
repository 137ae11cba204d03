"""The engines behind the gateway, one class each."""
