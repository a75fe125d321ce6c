#!/bin/sh
# Install the Mosquitto broker and its command-line clients through the system's package manager, unless they are there.
set -eu
PATH=$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin
scripts=$(dirname "$0")

# Debian and Ubuntu ship the clients apart. Only `latentbus bench` needs them, so nothing ends without them.
install_clients() {
    if ! command -v mosquitto_pub >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
        sh "$scripts/apt_install.sh" mosquitto-clients >/dev/null 2>&1 ||
            echo "setup: no mosquitto_pub; latentbus bench needs it: apt-get install mosquitto-clients"
    fi
}

if command -v mosquitto >/dev/null 2>&1; then
    install_clients
    exit 0
fi

if command -v apt-get >/dev/null 2>&1; then
    install="apt-get install mosquitto"
    sh "$scripts/apt_install.sh" mosquitto || true
elif command -v brew >/dev/null 2>&1; then
    echo "setup: installing Mosquitto with brew"
    install="brew install mosquitto"
    $install || true
elif command -v dnf >/dev/null 2>&1; then
    install="dnf install -y mosquitto"
    sh "$scripts/as_root.sh" $install || true
else
    install="your package manager's command for mosquitto"
fi
if ! command -v mosquitto >/dev/null 2>&1; then
    echo "setup: Mosquitto is missing and could not be installed. As root, run: $install" >&2
    echo "       (or put a mosquitto 2.0 or later on PATH), then run make again." >&2
    exit 1
fi
install_clients
