#!/usr/bin/env python3
"""Runs a daemon in a root file system with a NOTIFY_SOCKET, as systemd would, and stops it again. For test_deb.sh, where no systemd boots.

Usage: notified.py ROOT FILE COMMAND...    COMMAND is called in ROOT. Ends with 0 if it says READY=1 within two minutes, FILE in ROOT
grows within a minute after that, it says STOPPING=1 after SIGTERM and then ends with 0. PATIENCE=10 in the environment: ten times as long.
"""
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

PATIENCE = int(os.environ.get("PATIENCE", "1"))


def main(root, file, command):
    path = root / "run/notify"
    path.unlink(missing_ok=True)
    hears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    hears.bind(str(path))
    path.chmod(0o666)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET": "/run/notify", "HOME": "/var/lib/vtagd",
                   "STATE_DIRECTORY": "/var/lib/vtagd", "CACHE_DIRECTORY": "/var/cache/vtagd"}
    daemon = subprocess.Popen(["chroot", root, *command], env=environment, stdout=subprocess.DEVNULL)

    def wait_for(line, seconds):
        end = time.monotonic() + seconds * PATIENCE
        hears.settimeout(1)
        while time.monotonic() < end:
            try:
                if line in hears.recv(4096).decode().splitlines():
                    return
            except TimeoutError:
                if daemon.poll() is not None:
                    sys.exit(f"ended with {daemon.returncode} before {line}")
        sys.exit(f"no {line} in {seconds * PATIENCE} s")

    try:
        wait_for("READY=1", 120)
        end = time.monotonic() + 60 * PATIENCE
        while not ((root / file).exists() and (root / file).stat().st_size):
            if time.monotonic() > end or daemon.poll() is not None:
                sys.exit(f"nothing in {file}")
            time.sleep(0.2)
        daemon.send_signal(signal.SIGTERM)
        wait_for("STOPPING=1", 30)
        code = daemon.wait(30 * PATIENCE)
        sys.exit(code and f"ended with {code}")
    finally:
        daemon.kill()
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2].lstrip("/"), sys.argv[3:])
