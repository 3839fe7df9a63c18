#!/usr/bin/env bash
# Carry out N operations and say how fast they were: throughput, p50, p90, p99, p99.9 and the slowest.
#
#   scripts/benchmark.sh writes|reads|mixed N [--json]
#
# Against the cluster at FASTKV_ENDPOINTS (raw-TCP addresses), or on the default ports; where none runs there, against
# three nodes of its own on free ports, which are stopped and removed at the end. It writes keys of its own, named key-….
# Every option of `fastkv bench` may be given: --connections, --depth, --value-bytes, --rate and more.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

for argument in "$@"; do
    case $argument in
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    esac
done

install_fastkv
cd "$ROOT"
exec "$VENV/bin/python" -m bench "$@"
