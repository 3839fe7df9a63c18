"""The HTTP face of a node: keys and the cluster's state for people, scripts and whatever speaks JSON.

How a request goes through the package, and where to read on:

* `server` listens, bounds the number of connections, counts the time, and closes gracefully;
* `protocol` is one connection: it feeds httptools, bounds what it takes in, and writes answers in order;
* `request` is one request and its answer;
* `routes` is the table of paths and methods;
* `kv` and `listing` handle `/kv`, `cluster` all the rest;
* `params` reads keys, query parameters and conditions, `responses` writes heads, JSON and errors.

No task and no future is made for a request. A handler hands a callback to the node (`fastkv.server.service`), and the
callback writes the answer straight into the connection, or keeps it until the answers before it are out.
"""

from fastkv.server.http.server import HttpServer

__all__ = ["HttpServer"]
