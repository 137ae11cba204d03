"""How what the SDK gives out is shown in a notebook: of what is known already, without asking the registry."""
