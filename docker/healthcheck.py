"""Exit status 0 when the process of this container says that it is ready."""

import sys
import urllib.request

with urllib.request.urlopen("http://127.0.0.1:9100/metrics", timeout=3) as response:
    lines = response.read().decode().splitlines()
sys.exit(0 if "latentbus_ready 1.0" in lines else 1)
