# SPDX-License-Identifier: Apache-2.0
"""Normalizations: how exporters write them, and their form by mean absolute deviations."""
