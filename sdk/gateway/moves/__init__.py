"""Names that move while requests run: versions are fetched, loaded and proved before a name means them, and leave after their last request."""
