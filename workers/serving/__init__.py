"""The engine program: one base and its adapters by versioned name, asked over a private socket as OpenAI's routes are."""
