# SPDX-License-Identifier: Apache-2.0
"""Quantization: codes and their tables, rounding in the order of the graph, activation steps, and the nodes written."""
