#!/bin/sh
# Makes the environment in .venv, and keeps it as the locks say.
#
#     tools/environment.sh book     what the book needs (requirements.txt)
#     tools/environment.sh test     what the tests need as well (requirements-dev.txt,
#                                   and the system packages in tests/apt.txt)
#
#     PYTHON=python3.12             take this interpreter instead of choosing one
#     SYSTEM=0                      install no system package, say which are missing
#
# Only a shell is needed: it runs before there is any Python of ours.
# .venv/installed/ holds a copy of what was installed, written when pip is done.
# An environment whose copy is missing or differs is made afresh, so that an
# interrupted install or a package that left the lock never passes for the real thing.
set -eu
cd -P "$(dirname "$0")/.."

want=${1:-}
record=.venv/installed

say() { printf '[environment] %s\n' "$*"; }
fail() { printf '[environment] %s\n' "$@" >&2; exit 1; }

case $want in book | test) ;; *) fail "Usage: tools/environment.sh book|test" ;; esac

# Installs Debian packages, after saying so; where it may not, says the one command
# that does and returns 1.
#   install_packages REASON PACKAGE...
install_packages() {
    reason=$1 && shift
    install="apt-get install -y --no-install-recommends $*"
    [ "$(id -u)" = 0 ] && sudo='' || sudo='sudo '
    if [ "${SYSTEM:-1}" = 0 ]; then
        why="SYSTEM=0 forbids installing it"
    elif ! command -v apt-get >/dev/null; then
        why="this machine has no apt-get"
    elif [ -n "$sudo" ] && ! sudo -n true 2>/dev/null; then
        why="this user is not root and has no password-less sudo"
    else
        say "$reason needs: $*. Installing it on this machine (SYSTEM=0 turns this off):"
        say "    ${sudo}apt-get update && $sudo$install"
        # Without the update a fresh container knows no package at all.
        ${sudo}env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
            ${sudo}env DEBIAN_FRONTEND=noninteractive $install
        return
    fi
    say "$reason needs: $* ($why)."
    say "On Debian or Ubuntu this installs it:  $sudo$install"
    return 1
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# A version manager may put a python3.12 on the path that does not run: run it.
suitable() { case $(version_of "$1") in 3.11 | 3.12 | 3.13) ;; *) return 1 ;; esac; }

# Debian splits ensurepip, which `python -m venv` needs, into a package of its own.
makes_environments() { "$1" -c 'import venv, ensurepip' 2>/dev/null; }

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        suitable "$PYTHON" || fail \
            "PYTHON=$PYTHON is $(version_of "$PYTHON" || echo 'no Python that runs')." \
            "Give one that is 3.11, 3.12 or 3.13, or leave PYTHON out."
        echo "$PYTHON" && return
    fi
    fallback=
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        suitable "$candidate" || continue
        makes_environments "$candidate" && echo "$candidate" && return
        fallback=${fallback:-$candidate}
    done
    [ -n "$fallback" ] || fail "No Python 3.11, 3.12 or 3.13 was found on the path." \
        "Install one (Debian 12, Ubuntu 24.04: sudo apt-get install python3 python3-venv;" \
        "macOS: brew install python@3.11), or name one: make book PYTHON=/path/to/python3.11"
    echo "$fallback"
}

# The lines that count of a lock or of pyproject.toml: a new comment installs nothing.
bare() { sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' "$1"; }
installed() { [ -f "$record/$1" ] && bare "$1" | cmp -s - "$record/$1"; }
remember() { bare "$1" >"$record/$1"; }

# Why .venv cannot be kept, or nothing when it can.
reason_to_start_afresh() {
    [ -d .venv ] || { echo "there is none yet" && return; }
    suitable .venv/bin/python || { echo "its Python does not run any more" && return; }
    [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of .venv/bin/python)" ] ||
        { echo "PYTHON asks for another version" && return; }
    [ -f "$record/requirements.txt" ] || { echo "the last install did not finish" && return; }
    # Scripts in .venv/bin carry the folder's name in their first line.
    [ "$(cat "$record/folder")" = "$PWD" ] || { echo "the folder has moved" && return; }
    installed requirements.txt || { echo "requirements.txt has changed" && return; }
    [ "$want" = book ] || [ ! -f "$record/requirements-dev.txt" ] ||
        installed requirements-dev.txt || echo "requirements-dev.txt has changed"
}

start_afresh() {
    python=$(choose_python)
    # The interpreter itself, not a shim and not the .venv that is about to go.
    python=$("$python" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))')
    version=$(version_of "$python")
    if ! makes_environments "$python"; then
        install_packages "Making the environment" "python$version-venv"
        makes_environments "$python" || fail \
            "$python still cannot make environments: it has no ensurepip." \
            "Name another interpreter: make book PYTHON=/path/to/python3.11"
    fi
    say "Making .venv with $python ($version): $1."
    rm -rf .venv
    "$python" -m venv .venv
}

install_lock() {
    say "Installing $(bare "$1" | wc -l | tr -d ' ') packages from $1: a minute or two;" \
        "longer on the first run, which downloads them."
    # From here to the end of the install nothing vouches for what stands in .venv.
    rm -rf "$record"
    .venv/bin/python -m pip install --disable-pip-version-check -r "$1"
    mkdir "$record"
    printf '%s\n' "$PWD" >"$record/folder"
}

chromium_found() {
    for browser in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$browser" >/dev/null && return
    done
    [ -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ] ||
        [ -x "/Applications/Chromium.app/Contents/MacOS/Chromium" ]
}

install_test_packages() {
    chromium_found || install_packages "Looking at the built pages" $(bare tests/apt.txt) ||
        say "Going on without: the tests that need it are skipped, and say so."
}

# Two makes at once: the second waits, then finds the work done. (macOS has no flock.)
if command -v flock >/dev/null; then
    exec 9<"tools/environment.sh"
    flock -n 9 || { say "Another make is at work on .venv: waiting for it." && flock 9; }
fi

reason=$(reason_to_start_afresh)
[ -z "$reason" ] || start_afresh "$reason"
if [ "$want" = book ] && ! installed requirements.txt; then
    install_lock requirements.txt
    remember requirements.txt
elif [ "$want" = test ] && ! installed requirements-dev.txt; then
    install_lock requirements-dev.txt  # holds every line of requirements.txt too
    remember requirements.txt
    remember requirements-dev.txt
fi
if ! installed pyproject.toml; then
    say "Installing the package deploylab from this folder, editable."
    .venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
    remember pyproject.toml
fi
[ "$want" = book ] || install_test_packages
