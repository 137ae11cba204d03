"""Sessions: a token is traded for a cookie, which counts for pages alone."""
