#!/bin/sh
# Environments with Home Assistant below a folder; prints their Pythons, with colons between: install_home_assistant.sh FOLDER
# 2024.3.3 is the newest that runs on Python 3.11. One that reads descriptions of devices needs 3.12, and is added if that is there.
set -eu
folder=$1
found=
pythons() {
    command -v "python$1" 2>/dev/null || true
    for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1"*/bin/python; do echo "$python"; done
}
install() { # PYTHON_VERSION HOME_ASSISTANT
    for python in $(pythons "$1"); do
        "$python" -c 'import venv' >/dev/null 2>&1 || continue
        place=$folder/$2
        if [ ! -f "$place/installed" ]; then
            rm -rf "$place"
            "$python" -m venv "$place"
            "$place/bin/pip" install -q "homeassistant==$2" paho-mqtt==1.6.1 >&2
            touch "$place/installed"
        fi
        found=${found:+$found:}$place/bin/python
        return
    done
}
install 3.11 2024.3.3
install 3.12 2024.12.5
echo "$found"
