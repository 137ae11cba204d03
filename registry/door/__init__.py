"""What is between a socket and the application: connections, heads, bodies, hosts, and what they may take of time and memory.

`serving.serve_within` is the way in. `connections` counts connections and watches their times, `protocol` reads requests
within `limits`, `allowed_hosts` and `request_bodies` are the middleware that each request passes. One setting,
`REGISTRY_BEHIND_PROXY`, leaves to a proxy what a proxy can do as well.

There is a protocol of our own because no server has these limits: uvicorn limits neither headers nor times over httptools,
and Granian has no least rate of bodies, lets the half bodies of one address stop everybody else, and takes a request that
has both Content-Length and Transfer-Encoding.
"""
