"""Who is asking: API tokens, hashed at rest and shown once, and the roles that they carry."""
