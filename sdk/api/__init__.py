"""The registry's HTTP API as typed calls, over HTTP or in process."""
