"""Runs inside the image: start its command, ask for a prediction, end it politely.

    python ask.py COMMAND_AS_JSON ROW_AS_JSON

Prints JSON: seconds until ready, the answer, who asked, and how the server ended.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

command, row = sys.argv[1:]
at = "http://127.0.0.1:8080"
began = time.perf_counter()
server = subprocess.Popen(json.loads(command))
while True:
    if server.poll() is not None or time.perf_counter() - began > 60:
        sys.exit(f"the server was not ready: exit code {server.poll()}")
    try:
        urllib.request.urlopen(f"{at}/ready", timeout=2)
        break
    except OSError:
        time.sleep(0.02)
ready_s = time.perf_counter() - began
asked = urllib.request.Request(f"{at}/predict", row.encode())
asked.add_header("Content-Type", "application/json")
answer = json.load(urllib.request.urlopen(asked, timeout=10))
try:
    open("/app/written", "w").close()
    writes = "yes"
except OSError as error:
    writes = error.strerror
server.send_signal(signal.SIGTERM)
code = server.wait(20)
print(
    json.dumps(
        {
            "ready_s": round(ready_s, 2),
            "answer": answer,
            "uid": os.getuid(),
            "kernel": os.uname().release,
            "writes": writes,
            "exit_code": code,
        }
    )
)
