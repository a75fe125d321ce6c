"""A real RTSP server for tests, on GStreamer: run by the system's Python, told what to do over its standard input.

    /usr/bin/python3 rtsp_server.py PORT [USER PASSWORD]

Says ``port N`` when it listens. ``/live`` changes its level of grey and is H.264 with a key frame a second until a
line ``jpeg`` on its standard input makes it Motion JPEG for those who connect from then on. It ends with its input.
"""

from __future__ import annotations

import sys
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

SOURCE = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=10/1"
CODECS = {
    "h264": "x264enc tune=zerolatency key-int-max=10 ! rtph264pay name=pay0 config-interval=1",
    "jpeg": "jpegenc ! rtpjpegpay name=pay0",
}


def factory(codec: str, protected: bool) -> Any:
    made = GstRtspServer.RTSPMediaFactory()
    made.set_launch(f"( {SOURCE} ! {CODECS[codec]} )")
    made.set_shared(True)
    if protected:
        permissions = GstRtspServer.RTSPPermissions()
        for right in ("media.factory.access", "media.factory.construct"):
            permissions.add_permission_for_role("viewer", right, True)
        made.set_permissions(permissions)
    return made


def main() -> None:
    Gst.init(None)
    loop = GLib.MainLoop()
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1])
    protected = len(sys.argv) == 4
    if protected:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(*sys.argv[2:]), token)
        server.set_auth(auth)
    mounts = server.get_mount_points()
    mounts.add_factory("/live", factory("h264", protected))
    server.attach(None)

    def told(channel: Any, condition: Any) -> bool:
        line = sys.stdin.readline().strip()
        if line in CODECS:
            mounts.add_factory("/live", factory(line, protected))
            server.client_filter(lambda _server, _client: GstRtspServer.RTSPFilterResult.REMOVE)
            print("changed", flush=True)
        elif not line:
            loop.quit()
        return True

    GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, GLib.IO_IN | GLib.IO_HUP, told)
    print(f"port {server.get_bound_port()}", flush=True)
    loop.run()


if __name__ == "__main__":
    main()
