#!/bin/sh
# Install a package of Debian or Ubuntu as root: apt_install.sh PACKAGE
set -eu
as_root=$(dirname "$0")/as_root.sh
export DEBIAN_FRONTEND=noninteractive
echo "setup: installing $1 with apt-get"
# The package lists of a fresh image are empty; elsewhere they are usually good enough, and using them is faster.
sh "$as_root" apt-get install -y --no-install-recommends "$1" && exit 0
sh "$as_root" apt-get update && sh "$as_root" apt-get install -y --no-install-recommends "$1"
