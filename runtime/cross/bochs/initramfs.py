# SPDX-License-Identifier: Apache-2.0
"""Write a gzip-compressed cpio archive (format newc) that holds /init and /selftest: the whole root file system."""

import gzip
import sys
from pathlib import Path


def entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    """One archive member: 13 eight-digit hexadecimal fields, the name, the data, each padded to 4 bytes."""
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def main(init: str, selftest: str, output: str) -> None:
    """Pack two static executables into `output`."""
    archive = (
        entry(1, "init", 0o100755, Path(init).read_bytes())
        + entry(2, "selftest", 0o100755, Path(selftest).read_bytes())
        + entry(0, "TRAILER!!!", 0, b"")
    )
    Path(output).write_bytes(gzip.compress(archive, 6))


if __name__ == "__main__":
    main(*sys.argv[1:])
