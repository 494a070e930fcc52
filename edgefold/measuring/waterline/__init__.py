# SPDX-License-Identifier: Apache-2.0
"""What a model costs node by node and block by block, beside what this machine could do at best."""
