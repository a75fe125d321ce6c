#!/bin/sh
# Make the virtual environment and install the pinned packages: make_venv.sh PYTHON FOLDER
set -eu
python=$1
folder=$2

if ! command -v "$python" >/dev/null 2>&1; then
    echo "setup: no $python on PATH. Install Python 3.11 or later (Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python)," >&2
    echo "       or name one: make PYTHON=/path/to/python3.12 ..." >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "setup: $python is $("$python" -V 2>&1); Python 3.11 or later is needed. Name one: make PYTHON=python3.12 ..." >&2
    exit 1
fi
if [ ! -x "$folder/bin/python" ]; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian and Ubuntu ship these two in a package of their own.
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        if ! sh "$(dirname "$0")/apt_install.sh" "python$version-venv"; then
            echo "setup: $python cannot make virtual environments. Run: apt-get install python$version-venv" >&2
            exit 1
        fi
    fi
    echo "setup: making $folder with $("$python" -V)"
    rm -rf "$folder"
    "$python" -m venv "$folder"
fi
echo "setup: installing the packages of constraints.txt (the first time takes some minutes: torch is large)"
if ! "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'; then
    echo "setup: pip could not install the packages. Behind a proxy or a mirror, set pip's own options (pip config, PIP_* variables) and run again." >&2
    exit 1
fi
