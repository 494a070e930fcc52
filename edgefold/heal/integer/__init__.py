# SPDX-License-Identifier: Apache-2.0
"""Integer training: the forward product and both products of the backward pass multiply integers of few bits.

After "Towards Accurate and Efficient Sub-8-Bit Integer Training" (arXiv 2411.10948): weights and inputs are rounded to
nearest, gradients by ShiftQuant over the output channels with stochastic rounding, and one copy of the quantized
gradient serves both products. Master weights, the optimizer, biases and what lies between the layers stay in float.
"""
