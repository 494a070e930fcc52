# SPDX-License-Identifier: Apache-2.0
"""The operators of the domain ``ai.edgefold``: their meaning as functions of standard ONNX operators."""

from edgefold.ops.emit import OPERATORS, add_functions, function_protos, operator_documentation
from edgefold.ops.unpack import DOMAIN, VERSION

__all__ = ["DOMAIN", "OPERATORS", "VERSION", "add_functions", "function_protos", "operator_documentation"]
