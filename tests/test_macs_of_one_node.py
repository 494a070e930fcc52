# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of Einsum and of attention in one node, beside the products that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgefold.measuring.attention_macs import is_attention
from edgefold.measuring.einsum_macs import einsum_macs
from edgefold.measuring.macs import shaped_macs
from edgefold.measuring.waterline.node_times import run_nodes
from edgefold.measuring.waterline.node_work import number, operations

B, S, T, N, H, V, P = 2, 5, 7, 4, 8, 6, 3  # batch, steps, keys, heads, sizes of a head and of its values, past
MICROSOFT = "com.microsoft"


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("bshd,bthd->bhst", ((2, 5, 4, 8), (2, 7, 4, 8)), 2 * 4 * 5 * 7 * 8),
        ("...ij,...jk->...ik", ((2, 3, 5, 6), (6, 7)), 2 * 3 * 5 * 6 * 7),
        ("...ij , jk", ((2, 3, 5, 6), (6, 7)), 2 * 3 * 5 * 6 * 7),
        ("...ij,...jk->...ik", ((2, 1, 5, 6), (3, 6, 7)), 2 * 3 * 5 * 6 * 7),
        ("i,j->ij", ((5,), (7,)), 35),
        ("ij,jk->k", ((100, 6), (6, 7)), 42),  # i is summed before
        ("ab,bc,cd->ad", ((2, 3), (3, 4), (4, 5)), 2 * 3 * 4 + 2 * 4 * 5),  # pair after pair
        ("bt,te,beh->bth", ((2, 5), (5, 3), (2, 3, 8)), 2 * 5 * 3 + 2 * 5 * 3 * 8),
        ("ij->ji", ((100, 6),), 0),
        ("ij->i", ((100, 6),), 0),
        ("ii,ij->j", ((6, 6), (6, 7)), 42),
    ],
)
def test_an_einsum_multiplies_pair_after_pair(equation: str, shapes: tuple[tuple[int, ...], ...], macs: int) -> None:
    assert einsum_macs(equation, shapes) == macs
    operands = [np.ones(shape, np.float32) for shape in shapes]
    assert np.einsum(equation, *operands).size > 0  # an equation that means something


def node(operator: str, inputs: int, domain: str = MICROSOFT, **attributes: Any) -> onnx.NodeProto:
    return onnx.helper.make_node(operator, [f"i{place}" for place in range(inputs)], ["y"], domain=domain, **attributes)


Q, K = (B, S, N * H), (B, T, N * H)
CORE = B * N * S * T * (H + H)
GROUPED = B * N * S * T * (H + V)  # keys and values that heads share: as many products


@pytest.mark.parametrize(
    ("one", "shapes", "macs"),
    [
        (node("Attention", 3, "", q_num_heads=N, kv_num_heads=N), (Q, K, K), CORE),
        (node("Attention", 3, ""), ((B, N, S, H), (B, 2, T, H), (B, 2, T, V)), B * N * S * T * (H + V)),
        (node("Attention", 3, "", q_num_heads=N, kv_num_heads=2), (Q, (B, T, 2 * H), (B, T, 2 * V)), GROUPED),
        (
            node("Attention", 6, "", q_num_heads=N, kv_num_heads=N),
            (Q, K, K, None, (B, N, P, H), (B, N, P, H)),
            B * N * S * (T + P) * 2 * H,
        ),
        (node("MultiHeadAttention", 3, num_heads=N), (Q, K, (B, T, N * V)), B * N * S * T * (H + V)),
        (node("MultiHeadAttention", 3, num_heads=N), (Q, (B, N, T, H), (B, N, T, V)), B * N * S * T * (H + V)),
        (node("MultiHeadAttention", 1, num_heads=N), ((B, S, N, 3, H),), B * N * S * S * 2 * H),
        (node("MultiHeadAttention", 2, num_heads=N), (Q, (B, T, N, 2, H)), CORE),
        (
            node("GroupQueryAttention", 5, num_heads=N, kv_num_heads=2),
            (Q, (B, S, 2 * H), (B, S, 2 * H), (B, 2, P, H), (B, 2, P, H)),
            B * N * S * (S + P) * 2 * H,
        ),
        (node("GroupQueryAttention", 1, num_heads=N, kv_num_heads=2), ((B, S, (N + 4) * H),), B * N * S * S * 2 * H),
        (node("Attention", 2, num_heads=N), (Q, (32, 96)), B * S * 32 * 96 + B * N * S * S * 2 * H),
        (
            node("Attention", 5, num_heads=N, qkv_hidden_sizes=[32, 32, 24]),
            (Q, (32, 88), (88,), None, (2, B, N, P, H)),
            B * S * 32 * 88 + B * N * S * (S + P) * (H + V),
        ),
        (node("QAttention", 3, num_heads=N), (Q, (32, 96), (96,)), B * S * 32 * 96 + B * N * S * S * 2 * H),
        (node("Attention", 2, num_heads=N), (Q, None), None),
        (node("MultiHeadAttention", 3, num_heads=N), (None, K, K), None),
        (node("MultiHeadAttention", 3, num_heads=N), (Q, K, None), None),
        (node("Einsum", 2, "", equation="ij,jk->ik"), ((2, 3), None), None),
    ],
)
def test_attention_in_one_node(one: onnx.NodeProto, shapes: tuple[Any, ...], macs: int | None) -> None:
    assert shaped_macs(one, shapes) == macs


def test_an_operator_of_the_same_name_is_not_attention() -> None:
    assert is_attention("ai.onnx", "Attention")
    assert not is_attention("mine", "Attention")
    assert not is_attention("", "MultiHeadAttention")


def test_they_count_where_they_run(rng: np.random.Generator) -> None:
    """Weights that the kernel has packed are absent from the profile, and inputs that are left out too."""
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[2, 5, 32] x) => (float[2, 5, 32] y) {
        [all] a = com.microsoft.Attention <num_heads = 4> (x, w, b)
        [mix] e = Einsum <equation = "bsh,hk->bsk"> (a, v)
        [mha] m = com.microsoft.MultiHeadAttention <num_heads = 4> (e, a, a)
        y = Add (m, x)
    }"""
    model = onnx.parser.parse_model(text)
    for name, shape in {"w": (32, 96), "b": (96,), "v": (32, 32)}.items():
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    ran = run_nodes(ir.from_proto(model), {"x": np.ones((2, 5, 32), np.float32)}, 0.01)
    core = B * N * S * S * 2 * H
    found = {one.name: operations(one) for one in ran if operations(one)}
    assert found == {"all": 2 * (B * S * 32 * 96 + core), "mix": 2 * B * S * 32 * 32, "mha": 2 * core}
    assert {number(one) for one in ran} == {"float"}
