# SPDX-License-Identifier: Apache-2.0
"""Weight matrices as products of two thin ones: how well each rank would do, and which ranks fit a budget."""
