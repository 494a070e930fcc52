# SPDX-License-Identifier: Apache-2.0
"""What a model costs: bytes, operations, time; beside other forms of it, and on this machine."""
