# SPDX-License-Identifier: Apache-2.0
"""Mixture-of-experts layers in the forms that exporters give them, found by structure and certified by arithmetic."""
