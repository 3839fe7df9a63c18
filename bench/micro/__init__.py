"""Micro-benchmarks: what one operation costs in each module of the compiled core, and in the consensus core.

    python -m pytest bench/micro

It prints nanoseconds for an operation. `--benchmark-max-time 0.2` is a quick look, `-k "apply or memtable"` a part of
it, `--benchmark-json FILE` keeps everything; pytest-benchmark's own table comes with `--benchmark-verbose`.

* `bench_*`: one subject each; a docstring says what is measured, and why
* `measure`: how a call becomes a figure; `conftest`: the table
* `data`: keys, values and batches, the same in every run; `door`: connections on real sockets without an event loop

A figure includes the Python call where the node makes one too. Where it does not, because what the node uses is
compiled on both sides, as many operations as possible are done in one call; what remains of the call is then in the
figure, 20 to 40 ns of it. Compare figures of one machine, of the same size, and their minima first: those are what the
code costs, and medians what it costs beside everything else that runs.

The garbage collector is off while something is measured, so that no run pays for what another one left.
"""
