# Sourced by ./teeio and ./check: makes the virtual environment in .venv and keeps it in step with pyproject.toml.
# Usage: teeio_setup EXTRAS   (EXTRAS is "" or "[dev]")

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
    "$1" -m venv .venv >/dev/null 2>&1 && return 0
    # Debian ships the venv module without pip unless its own package is there.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "teeio: installing python3-venv ..." >&2
        apt-get update -qq >/dev/null 2>&1
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null 2>&1
        rm -rf .venv
        "$1" -m venv .venv >/dev/null 2>&1 && return 0
    fi
    rm -rf .venv
    echo "teeio: '$1 -m venv .venv' failed. On Debian or Ubuntu: sudo apt-get install python3-venv" >&2
    return 1
}

teeio_setup() {
    stamp=".venv/.teeio$1"
    if [ -f "$stamp" ] && cmp -s "$stamp" pyproject.toml; then return 0; fi
    python=$(teeio_python) || return 1
    if ! .venv/bin/python -c 'import pip' 2>/dev/null; then teeio_make_venv "$python" || return 1; fi
    echo "teeio: setting up .venv (once; takes a minute) ..." >&2
    if ! .venv/bin/python -m pip install -q --disable-pip-version-check -e ".$1" >.venv/setup.log 2>&1; then
        tail -n 5 .venv/setup.log >&2
        echo "teeio: installing the dependencies failed; the whole log is .venv/setup.log" >&2
        return 1
    fi
    cp pyproject.toml "$stamp"
}
