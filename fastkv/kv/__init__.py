"""What a command means: the replicated state machine.

* `state`: keys with their revisions, applied one committed run at a time; when to write a checkpoint.
* `store`: what it needs of the durable store below, implemented by `storage`.
* `snapshots`: states that are kept for a while, so that the pages of a listing belong together.
* `commands`: entries of the log, for a person to read.

The work of an operation is done by `_core.apply`. Everything here is deterministic: equal entries make equal states.
"""
