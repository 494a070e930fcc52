# SPDX-License-Identifier: Apache-2.0
"""Tasks and metrics: how a model is fed and scored."""
