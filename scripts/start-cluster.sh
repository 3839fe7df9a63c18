#!/usr/bin/env bash
# Start node-1, node-2 and node-3 on this machine, in the foreground; Ctrl-C stops them. The first start makes .venv and
# builds fastkv into it. Works from any directory.
#
#   scripts/start-cluster.sh [--clean] [--nodes N] [--data-dir D] [--base-http-port B] [--base-raft-port B] [--detach]
#
#   --clean             remove the data of an earlier cluster first
#   --nodes N           how many nodes (3)
#   --data-dir D        where they keep their data (data/cluster in the project)
#   --base-http-port B  node-i serves HTTP on B + i - 1 (8081)
#   --base-raft-port B  node-i serves raw TCP on B + i - 1 (9001)
#   --detach            return once there is a leader; scripts/stop-cluster.sh [--data-dir D] ends it
#
# Every option of `fastkv cluster up` may be given.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

defaults=(
    --config "${KV_CONFIG:-$ROOT/config/multi-node-cluster.yaml}"
    --data-dir "${KV_DATA_DIR:-$ROOT/data/cluster}"
)
for argument in "$@"; do
    case $argument in
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
        --config | --config=*) defaults=() ;; # another configuration says itself where its data is
    esac
done

install_fastkv
exec "$VENV/bin/fastkv" cluster up "${defaults[@]}" "$@"
