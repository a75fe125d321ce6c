#!/bin/sh
# Run a command as root, through sudo where this is not root: as_root.sh COMMAND...
# Exit status 127: the command does not exist here; 126: no way to become root without asking.
set -eu
command -v "$1" >/dev/null 2>&1 || exit 127
if [ "$(id -u)" -eq 0 ]; then
    exec "$@"
fi
command -v sudo >/dev/null 2>&1 || exit 126
# A terminal may ask for the password; a build server must not wait for one.
if [ -t 0 ]; then
    exec sudo "$@"
fi
sudo -n true 2>/dev/null || exit 126
exec sudo -n "$@"
