"""Faults on clusters of real processes, and verdicts on what came of them: `fastkv chaos`, docs/chaos.md.

A run, from the outside in:

* `run` puts it together; `modes` says which faults and which clients, `record` is what is left, `judge` the verdict;
* `faults` are what is done to a `cluster` of processes on a `network`: `links` and their proxies, or `namespaces`;
* `clients` work on it all the while through `doors` (the library, `http_door`), and `history` records them;
* `watch` looks on, `resources` at what nodes take of their machine, `agreement` at what every node holds in the end;
* `timeline`, `chart` and `progress` show it.

The check of a history, usable by itself: `operations` and `history` say what one is; `linearizability` decides, by
`wing_gong` for each key and `revisions` over all; `window`, `finding`, `lines` and `verdict` explain.
"""
