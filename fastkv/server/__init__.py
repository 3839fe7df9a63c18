"""A node on a real machine: the event loop, sockets, threads, HTTP and metrics. `runtime.run` is the whole of it."""
