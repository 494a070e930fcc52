# SPDX-License-Identifier: Apache-2.0
"""What Bochs wants connected: a VNC client of its `rfb` display, without which it refuses to run, and a serial port.

Pixels are thrown away; what the serial port says goes to a file at once (Bochs' own file mode keeps 4096 bytes back).
"""

import socket
import sys
import threading
import time
from pathlib import Path

DISPLAY_PORT = 5900
SERIAL_PORT = 5901
VERSION = b"RFB 003.003\n"


def connect(port: int, seconds: float) -> socket.socket:
    """Retry until the emulator listens; raises the last OSError after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def watch_display() -> None:
    """Answer version and shared-screen flag, then read until the emulator closes."""
    with connect(DISPLAY_PORT, 20.0) as screen:
        screen.recv(len(VERSION))
        screen.sendall(VERSION)
        screen.recv(4)
        screen.sendall(b"\x01")
        while screen.recv(65536):
            continue


def main(serial_file: str) -> None:
    """Serve the serial port until the emulator closes it."""
    with socket.create_server(("127.0.0.1", SERIAL_PORT)) as server, Path(serial_file).open("wb", buffering=0) as out:
        threading.Thread(target=watch_display, daemon=True).start()
        port, _ = server.accept()
        while data := port.recv(4096):
            out.write(data)


if __name__ == "__main__":
    main(sys.argv[1])
