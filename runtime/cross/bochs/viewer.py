# SPDX-License-Identifier: Apache-2.0
"""The least VNC client: shakes hands with Bochs' `rfb` display and throws the pixels away, because Bochs refuses to run unseen."""

import socket
import time

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


def main() -> None:
    """Answer version and shared-screen flag, then read until the emulator closes."""
    with connect(5900, 20.0) as screen:
        screen.recv(len(VERSION))
        screen.sendall(VERSION)
        screen.recv(4)
        screen.sendall(b"\x01")
        while screen.recv(65536):
            continue


if __name__ == "__main__":
    main()
