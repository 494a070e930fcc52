# SPDX-License-Identifier: Apache-2.0
"""Scale migration: which tensors can share a factor a channel, where it goes, and how large it should be."""
