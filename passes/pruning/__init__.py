# SPDX-License-Identifier: Apache-2.0
"""Structured pruning: labels on every axis, groups of coupled channels, their choice, removal and repair."""
