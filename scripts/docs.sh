#!/usr/bin/env bash
# Build the documentation's site from docs/, look at it, or write its generated pages anew.
# The first run makes .venv and installs what is needed into it. Works from any directory.
#
#   scripts/docs.sh [build|serve|update] [MKDOCS ARGUMENT...]
#
#   build   the site, in build/site; a link that leads nowhere is an error (the default)
#   serve   the site on http://127.0.0.1:8000, built anew at every change
#   update  docs/cli.md from the commands, and the tables of docs/configuration.md from the settings
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

command=${1:-build}
shift || true
case $command in
    -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    build | serve | update) ;;
    *) die "there is no $command: build, serve or update" ;;
esac

install_fastkv docs
cd "$ROOT"
# The theme's makers announce their next tool at every run.
export DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=true
case $command in
    build | serve) exec "$VENV/bin/python" -m mkdocs "$command" --strict "$@" ;;
    update) exec "$VENV/bin/python" -m fastkv.cli.manual ;;
esac
