"""What a cluster of fastkv does while something happens to it: each program says one thing, and starts its own nodes.

* `python -m bench.cluster.catch_up`: a node that lost everything catches up while clients write
* `python -m bench.cluster.rolling_restart`: every node is stopped and started in turn while clients write
* `nodes`: the cluster that both of them, and the comparison with rivals, start
"""
