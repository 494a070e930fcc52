# SPDX-License-Identifier: Apache-2.0
"""What the pass ``fuse-blocks`` joins, one kind of block a file."""
