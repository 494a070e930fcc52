# SPDX-License-Identifier: Apache-2.0
"""Model files: safe to read, whole when written, and of an opset that the rest can rely on."""
