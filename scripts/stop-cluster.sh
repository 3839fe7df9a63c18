#!/usr/bin/env bash
# Stop the cluster that scripts/start-cluster.sh --detach started, and nothing else. Does nothing where none is running.
#
#   scripts/stop-cluster.sh [--data-dir D]
#
#   --data-dir D  the directory that was given at the start (data/cluster in the project)
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

for argument in "$@"; do
    case $argument in
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    esac
done

if [[ ! -x $VENV/bin/fastkv ]]; then
    say "nothing to stop: fastkv has not been installed into .venv, so nothing was started from here"
    exit 0
fi
exec "$VENV/bin/fastkv" cluster stop --data-dir "${KV_DATA_DIR:-$ROOT/data/cluster}" "$@"
