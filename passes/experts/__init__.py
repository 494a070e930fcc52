# SPDX-License-Identifier: Apache-2.0
"""Mixture-of-experts layers: the one form that passes work on, its recognition, and what is made of it."""
