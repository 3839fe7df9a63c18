# shellcheck shell=bash
# What the scripts share: finding what a machine has, installing or naming what it lacks, and keeping .venv up to date.
# Sourced, not run. Assumes bash and the coreutils, and nothing else before it has looked.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
STAMP="$VENV/fastkv-stamp"
MINIMUM_PYTHON="3.11"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$(basename "$0"): $*"
    exit 1
}

# -- what the machine has ------------------------------------------------------------------------------------------------

_missing_packages=()
_missing_names=()

# need PACKAGE NAME TEST...: unless the command TEST succeeds, PACKAGE (as Debian calls it) is missing.
need() {
    local package=$1 name=$2
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        _missing_packages+=("$package")
        _missing_names+=("$name")
    fi
}

# Install what `need` found missing, where that is possible; otherwise say in one line what it is, and end.
provide() {
    [[ ${#_missing_packages[@]} -gt 0 ]] || return 0
    local names packages=("${_missing_packages[@]}")
    names=$(printf '%s, ' "${_missing_names[@]}")
    _missing_packages=()
    _missing_names=()
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        die "missing: ${names%, }. On Debian or Ubuntu: sudo apt-get install ${packages[*]}"
    fi
    say "installing ${names%, }"
    export DEBIAN_FRONTEND=noninteractive
    # The lists may be missing or old; an update that fails for one source of several may still be enough.
    apt-get update -qq || say "apt-get update failed; trying with the lists that are there"
    # Word splitting is wanted: an entry may name several packages.
    # shellcheck disable=SC2068
    apt-get install -y -qq --no-install-recommends ${packages[@]} >&2 ||
        die "cannot install ${packages[*]}; install it by hand, and start this again"
}

# The first Python that is new enough and complete, in PYTHON.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        if [[ -n $candidate ]] && _is_good_python "$candidate"; then
            PYTHON=$(command -v "$candidate")
            return 0
        fi
    done
    return 1
}

_is_good_python() {
    "$1" -c "import sys, ensurepip, venv; sys.exit(sys.version_info < (${MINIMUM_PYTHON/./, }))" >/dev/null 2>&1
}

_has_compiler() { command -v "${CC:-cc}" || command -v gcc || command -v clang; }

_headers_package() { "$PYTHON" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])'; }

_has_headers() { "$PYTHON" -c 'import os, sysconfig as s; open(os.path.join(s.get_path("include"), "Python.h"))'; }

# -- .venv ---------------------------------------------------------------------------------------------------------------

# A digest of everything that the compiled core and the list of dependencies come from. Python sources are not in it: the
# installation refers to them where they are.
_build_digest() {
    (
        cd "$ROOT" || exit
        "$VENV/bin/python" -VV
        cat pyproject.toml setup.py fastkv/version.py fastkv/_core/*.pyx fastkv/_core/*.pxd
    ) | sha256sum | cut -d' ' -f1
}

# install_fastkv [dev|chaos]: make .venv and install fastkv into it, where that has not been done for these very sources.
install_fastkv() {
    local extras=${1:-} wanted
    find_python || need "python3 python3-venv python3-dev" "Python $MINIMUM_PYTHON or newer, with pip and venv" false
    need "gcc libc6-dev" "a C compiler" _has_compiler
    provide
    find_python || die "missing: Python $MINIMUM_PYTHON or newer with pip and venv; set PYTHON to one that is not in PATH"
    need "$(_headers_package)" "Python's headers (Python.h)" _has_headers
    provide
    "$VENV/bin/python" -c '' 2>/dev/null || {
        say "making $VENV"
        "$PYTHON" -m venv --clear "$VENV"
    }
    wanted=$(_build_digest)
    if _is_installed "$wanted" "$extras"; then
        return 0
    fi
    say "building and installing fastkv into .venv; the first time this takes a few minutes"
    rm -f "$STAMP"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$ROOT${extras:+[$extras]}" >&2 ||
        die "building fastkv failed; what went wrong is above"
    printf '%s %s\n' "$wanted" "$extras" >"$STAMP"
}

# Whether .venv has this build, with at least these extras, and the compiled core is still in place.
_is_installed() {
    local digest installed
    [[ -r $STAMP ]] || return 1
    read -r digest installed <"$STAMP" || return 1
    # dev has all that the other extras have.
    [[ $digest == "$1" && ($2 == "" || $2 == "$installed" || $installed == dev) ]] &&
        "$VENV/bin/python" -c 'import fastkv._core' 2>/dev/null
}
