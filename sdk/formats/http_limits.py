"""What each of our servers takes of a request before its body, whoever asks: the registry's and the gateway's."""

#: The request line and all headers, in bytes, and how many headers.
MOST_HEAD_BYTES, MOST_HEADERS = 32 * 1024, 100
#: How long they may take to come, in seconds.
HEAD_S = 10.0
#: Requests on one connection that wait for the one before them.
MOST_PIPELINED = 8
