#!/bin/sh
# Every check that `make test` skips where a tool is missing, or makes in a short form: test_extras.sh BIN_FOLDER
# A tool that cannot be installed fails it.
set -eu
bin=$1
PATH=$PATH:/usr/sbin:/sbin
command -v nft >/dev/null 2>&1 || sh "$(dirname "$0")/apt_install.sh" nftables
command -v mosquitto_pub >/dev/null 2>&1 || sh "$(dirname "$0")/apt_install.sh" mosquitto-clients
/usr/bin/python3 -c 'import gi; gi.require_version("GstRtspServer", "1.0")' 2>/dev/null ||
    for package in python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
        gstreamer1.0-plugins-ugly; do
        sh "$(dirname "$0")/apt_install.sh" "$package"
    done
command -v systemd-analyze >/dev/null 2>&1 || sh "$(dirname "$0")/apt_install.sh" systemd
command -v promtool >/dev/null 2>&1 || sh "$(dirname "$0")/apt_install.sh" prometheus
command -v chromium >/dev/null 2>&1 || sh "$(dirname "$0")/apt_install.sh" chromium
for tool in nft mosquitto mosquitto_pub chromium prometheus promtool systemd-analyze; do
    command -v "$tool" >/dev/null 2>&1 || { echo "test-extras: no $tool on PATH" >&2; exit 1; }
done
export LATENTBUS_NO_SKIPS=1
LATENTBUS_HOME_ASSISTANT=$(sh "$(dirname "$0")/install_home_assistant.sh" .pytest_cache/home-assistant)
export LATENTBUS_HOME_ASSISTANT
echo "test-extras: tests that need nft, the dynamic-security plug-in, mosquitto_pub, npm, Node-RED, Home Assistant, GStreamer, Chromium, Prometheus, systemd, a fresh environment or the ImageNet weights"
"$bin/kubernetes-validate" --strict --quiet deploy/kubernetes/worker.yaml
"$bin/python" -m pytest -q tests/broker tests/bus tests/edge/test_frame_log.py tests/edge/test_full_disk.py tests/edge/test_rtsp.py \
    tests/gateway/test_browser.py tests/gateway/test_home_assistant_parser.py \
    tests/integration/test_prometheus.py tests/integration/test_mosquitto_examples.py tests/integration/test_node_red_example.py \
    tests/schemas/test_asyncapi_parser.py tests/recording/test_bench.py \
    tests/recording/test_foreign_reader.py tests/recording/test_recorder.py tests/recording/test_writer.py \
    tests/test_systemd_unit.py tests/test_wheel.py tests/training/reference_vlm/test_reference_vlm_pretrained.py
echo "test-extras: the bus on a second broker"
"$bin/pip" install -q -c constraints.txt "iotcore==0.4.0"
LATENTBUS_TEST_BROKER=iotcore LATENTBUS_NO_SKIPS= "$bin/python" -m pytest -q --tb=native tests/bus
echo "test-extras: the gateway with 200 streams and 50 questions a second"
"$bin/python" -m benchmarks.gateway_load --duration 20
echo "test-extras: every mutation of the protocol is found"
"$bin/latentbus" simulate --mutations
echo "test-extras: a million simulated events"
"$bin/latentbus" simulate --events 1000000 --seed 7
echo "test-extras: every attack against a secured fleet"
"$bin/latentbus" attack
echo "test-extras: faults on real processes"
"$bin/latentbus" chaos --questions 400 --faults 10
echo "test-extras: all passed"
