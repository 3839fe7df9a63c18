#!/usr/bin/env bash
# Let faults loose on a real cluster of processes under load, and say whether it kept its promises.
#
#   scripts/chaos-test.sh random-failures|network-partition|load-test-with-failures
#       [--seconds N] [--seed S] [--nodes 3|5] [--network proxies|namespaces] [--output DIR] [--json]
#   scripts/chaos-test.sh check HISTORY
#
# The cluster is the run's own, on free ports, and is gone at the end. What the run leaves (the clients' history, the
# verdict, a timeline as JSON and as a picture, the nodes' logs) is in DIR, data/chaos/MODE-SEED by default. Exit status 0
# only where nothing acknowledged was lost, the history is linearizable, all nodes agree, and enough was tried to say so;
# 1 otherwise, 2 where the run cannot be made as asked. With --network namespaces it needs root, iproute2 and nftables.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

namespaces=false
for argument in "$@"; do
    case $argument in
        namespaces | --network=namespaces) namespaces=true ;;
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    esac
done

if [[ $namespaces == true && $EUID -eq 0 ]]; then
    need iproute2 "ip (iproute2)" command -v ip
    need nftables "nft (nftables)" command -v nft
    provide
fi
install_fastkv chaos
exec "$VENV/bin/fastkv" chaos "$@"
