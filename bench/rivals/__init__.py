"""fastkv beside what users would run instead, on the same machine, in the same run.

    python -m bench.rivals --rivals etcd,redis,fastkv --loads put-c64x16,get-c64x16 --rounds 3 --seconds 5

Each round starts every rival in turn, fresh, on free ports of 127.0.0.1, fills it, loads it and stops it. A figure is
the median of the rounds, and what counts is the ratio: absolute numbers of a shared machine mean little.

* `loads`: what is asked; `rival`: what every rival can do, and what is measured
* `etcd`, `redis`, `fastkv`: one file each; `h2load`: the HTTP/2 and HTTP/1 load tool, and its output
* `report`: medians, ratios, the table
"""
