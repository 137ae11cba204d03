"""Numbers of trainings by step: stored as workers send them, kept reduced for versions, and reduced for readers."""
