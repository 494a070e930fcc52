# SPDX-License-Identifier: Apache-2.0
"""Depth: the repeated residual blocks of a graph, and what takes them out, shares, fuses and repairs them."""
