# SPDX-License-Identifier: Apache-2.0
"""``python -m edgefold``: the command line."""

from edgefold.cli import main

main()
