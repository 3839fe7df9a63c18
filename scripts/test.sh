#!/usr/bin/env bash
# Run the whole test suite: the linters, the type checkers, the compiled core's tests on a debug build, the consensus
# core's branch coverage, and all tests.
# The first run makes .venv and builds fastkv into it. Works from any directory.
#
#   scripts/test.sh [--quick] [PYTEST ARGUMENT...]
#
#   --quick  without nodes as processes, slow tests, type checks and the debug build: under three minutes, once
#            everything is installed
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

quick=false
arguments=()
for argument in "$@"; do
    case $argument in
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
        --quick) quick=true ;;
        *) arguments+=("$argument") ;;
    esac
done

need curl curl command -v curl
need jq jq command -v jq
need strace strace command -v strace
need fuse3 "FUSE (fusermount3 and libfuse3)" command -v fusermount3
need e2fsprogs mkfs.ext4 command -v mkfs.ext4
need iproute2 "ip (iproute2)" command -v ip
need nftables "nft (nftables)" command -v nft
need procps "ps and pgrep" command -v pgrep
need groff-base "groff (groff-base)" command -v groff
need prometheus "Prometheus and promtool" command -v promtool
need "chromium fonts-dejavu-core" "Chromium and a font" command -v chromium
need wamerican "a word list (/usr/share/dict/words)" test -r /usr/share/dict/words
if [[ $quick == false && $EUID -eq 0 ]]; then
    # For tests/deploy/test_docker.py, which only root can give an engine. Where there is none, it is skipped, loudly.
    need docker.io "a Docker engine (dockerd)" command -v dockerd
    need docker-compose docker-compose command -v docker-compose
    need debootstrap debootstrap command -v debootstrap
    need iptables iptables command -v iptables
fi
provide
install_fastkv dev

cd "$ROOT"
export PATH="$VENV/bin:$PATH"
failed=()

# step NAME COMMAND...: run one part; go on where it fails, so that one run says all there is to say.
step() {
    local name=$1
    shift
    say "== $name"
    "$@" || failed+=("$name")
}

# The core again with bounds checks, overflow checks and assertions on, also under simulated faults. Built in a copy,
# because an extension module of a debug build has the same file name as the one that the other tests use.
debug_build_tests() {
    local copy=build/debug
    rm -rf "$copy" && mkdir -p "$copy" &&
        cp -R config docs fastkv scripts tests setup.py pyproject.toml README.md LICENSE "$copy" &&
        find "$copy" -name '*.so' -delete || return
    (
        cd "$copy" &&
            FASTKV_DEBUG=1 python setup.py --quiet build_ext --inplace &&
            python -c 'import os, fastkv; assert fastkv.__file__.startswith(os.getcwd()), fastkv.__file__' &&
            python -m pytest -q -p no:cacheprovider tests/core tests/storage &&
            python -m tests.sim --seed 900000 --count 10 --quiet
    )
}

# Consensus is interpreted, so its coverage can be measured: that of its own tests, without the random lives, which take
# long when every line is counted.
consensus_coverage() {
    local data=build/coverage
    python -m coverage run --branch --source=fastkv/raft --data-file="$data" -m pytest -q -p no:cacheprovider tests/raft \
        -k 'not random' &&
        python -m coverage report --data-file="$data" --show-missing --skip-covered --fail-under=98
}

step "ruff" ruff check .
step "cython-lint" cython-lint fastkv
if [[ $quick == false ]]; then
    step "shellcheck" shellcheck --external-sources .ci/run scripts/*.sh
    step "mypy" mypy
    step "stubtest" python -m mypy.stubtest fastkv._core --concise --ignore-disjoint-bases \
        --ignore-unused-allowlist --allowlist .ci/stubtest-allowlist.txt
    step "the core's tests on a debug build" debug_build_tests
    step "branch coverage of the consensus core" consensus_coverage
    step "tests" python -m pytest "${arguments[@]}"
else
    step "tests" python -m pytest -m "not slow and not e2e" "${arguments[@]}"
fi

if [[ ${#failed[@]} -gt 0 ]]; then
    die "failed: $(printf '%s, ' "${failed[@]}" | sed 's/, $//')"
fi
