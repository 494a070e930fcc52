# SPDX-License-Identifier: Apache-2.0
"""Print an arm64 /proc/cpuinfo for as many CPUs as this machine has.

ONNX Runtime parses the file at start, and under qemu-user would see the host's. It must agree with qemu's `-cpu`.
"""

import os
import sys

_A53 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_A76 = f"{_A53} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
FEATURES = {"cortex-a53": _A53, "cortex-a76": _A76, "max": f"{_A76} i8mm bf16"}
PARTS = {"cortex-a53": "0xd03", "cortex-a76": "0xd0b", "max": "0xd0c"}


def main(cpu: str) -> None:
    """Write one block a CPU to stdout."""
    for number in range(os.cpu_count() or 1):
        sys.stdout.write(
            f"processor\t: {number}\nBogoMIPS\t: 50.00\nFeatures\t: {FEATURES[cpu]}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {PARTS[cpu]}\nCPU revision\t: 1\n\n"
        )


if __name__ == "__main__":
    main(sys.argv[1])
