# Sourced by ./teeio and ./check: makes the virtual environment in .venv and keeps it in step with pyproject.toml.
# Usage: teeio_setup EXTRAS   (EXTRAS is "" or "[dev]")
# Needs the network the first time, for the package index. Two first runs at once wait for each other.

teeio_python() {
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    echo "teeio: needs Python 3.11 or newer; none of python3, python3.13, python3.12, python3.11 is. Install it, or set PYTHON." >&2
    return 1
}

teeio_make_venv() {
    rm -rf .venv
    reason=$("$1" -m venv .venv 2>&1) && return 0
    # Debian ships the venv module without pip unless its own package is there.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "teeio: installing python3-venv ..." >&2
        apt-get update -qq >/dev/null 2>&1
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null 2>&1
        rm -rf .venv
        reason=$("$1" -m venv .venv 2>&1) && return 0
    fi
    rm -rf .venv
    echo "teeio: '$1 -m venv .venv' failed: $reason" >&2
    echo "teeio: on Debian or Ubuntu: sudo apt-get install python3-venv" >&2
    return 1
}

# What an installation depends on: a checkout that was moved or copied has to install itself again.
teeio_fingerprint() {
    pwd -P
    cat pyproject.toml
}

teeio_ready() {
    [ -f ".venv/.teeio$1" ] && teeio_fingerprint | cmp -s - ".venv/.teeio$1" &&
        .venv/bin/python -c 'import teeio' 2>/dev/null
}

teeio_install() {
    python=$(teeio_python) || return 1
    home=$(cat .venv/.home 2>/dev/null)
    if [ "$home" != "$(pwd -P)" ] || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        teeio_make_venv "$python" || return 1
    fi
    echo "teeio: setting up .venv (once; takes a minute) ..." >&2
    if ! .venv/bin/python -m pip install -q --disable-pip-version-check -e ".$1" >.venv/setup.log 2>&1; then
        tail -n 5 .venv/setup.log >&2
        echo "teeio: installing the dependencies failed; this needs the network once. The whole log is .venv/setup.log" >&2
        return 1
    fi
    pwd -P >.venv/.home
    teeio_fingerprint >".venv/.teeio"
    [ -z "$1" ] || teeio_fingerprint >".venv/.teeio$1"
}

teeio_setup() {
    teeio_ready "$1" && return 0
    waited=0
    until mkdir .venv.lock 2>/dev/null; do
        holder=$(cat .venv.lock/pid 2>/dev/null)
        if [ -n "$holder" ] && ! kill -0 "$holder" 2>/dev/null; then
            rm -rf .venv.lock # its holder died
            continue
        fi
        if [ "$waited" -ge 600 ]; then
            echo "teeio: another run has been setting up .venv for ten minutes; if there is none: rm -r .venv.lock" >&2
            return 1
        fi
        [ "$waited" -gt 0 ] || echo "teeio: another run is setting up .venv; waiting for it ..." >&2
        sleep 1
        waited=$((waited + 1))
    done
    echo $$ >.venv.lock/pid
    trap 'rm -rf .venv.lock' EXIT
    trap 'exit 130' INT TERM
    done=0
    teeio_ready "$1" || teeio_install "$1" || done=1
    rm -rf .venv.lock
    trap - EXIT INT TERM
    return $done
}
