#!/bin/sh
# Install nft, with which the rule per address is tested, where apt-get is there; without it that one test is skipped.
PATH=$PATH:/usr/sbin:/sbin
if command -v nft >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    exit 0
fi
sh "$(dirname "$0")/apt_install.sh" nftables >/dev/null 2>&1 ||
    echo "setup: no nft; the test of broker_config/broker.nft is skipped: apt-get install nftables"
exit 0
