"""Benchmarks: how fast, against what, and how that was measured. See README.md beside this file.

* `rivals`: fastkv beside etcd and Redis; `cluster`: what a cluster of fastkv does while something happens to it
* `processes`: servers that a run started, with their CPU time and memory, and that it always stops
* `machine`: what it ran on
"""
