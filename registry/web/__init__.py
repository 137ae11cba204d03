"""Pages beside the API: over the same services, for the same rights, written on the server and useful without JavaScript."""
