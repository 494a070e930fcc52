# SPDX-License-Identifier: Apache-2.0
"""Blocks that share their weights: which of them, whose weights, and what makes up for it."""
