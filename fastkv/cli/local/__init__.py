"""A cluster of several nodes on this machine, as `fastkv cluster` runs it.

* `plan`: which nodes, on which ports, with which configuration; what stands in the way
* `probe`: what the nodes say of themselves, and who leads
* `supervisor`: the nodes in the foreground, with their logs
* `detached`: the nodes in the background, and the record by which they are found again
* `processes`: a process that stays the same one, however process ids are reused
"""
