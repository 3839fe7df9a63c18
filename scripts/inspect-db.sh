#!/usr/bin/env bash
# Look into a cluster, node by node: its health, its data, its log, and whether every node works.
#
#   scripts/inspect-db.sh [all|status|data|raft|test] [OPTION...]
#
#   status  health and leader, of each node
#   data    every stored pair, from each node, and whether the nodes agree
#   raft    the log itself, of each node; with --data-dir DIR/NODE_ID that of a node that does not run
#   test    put, get and delete across the nodes, with a verdict
#   all     one after the other, which is what it does without an argument; it takes no options
#
# The cluster at FASTKV_ENDPOINTS (raw-TCP addresses), or on the default ports. Options are those of `fastkv inspect`:
# --json, --watch SECONDS, --limit N and more. Exit status 0 where all is well.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

for argument in "$@"; do
    case $argument in
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    esac
done

what=${1:-all}
[[ $# -gt 0 ]] && shift
case $what in
    status | data | raft | test)
        install_fastkv
        exec "$VENV/bin/fastkv" inspect "$what" "$@"
        ;;
    all)
        [[ $# -eq 0 ]] || die "all takes no options: give them to status, data, raft or test"
        install_fastkv
        status=0
        for what in status data raft test; do
            printf '== %s\n' "$what"
            "$VENV/bin/fastkv" inspect "$what" || status=$?
        done
        exit "$status"
        ;;
    *) say "there is nothing called '$what' to inspect: all, status, data, raft or test" && exit 2 ;;
esac
