# SPDX-License-Identifier: Apache-2.0
"""`edgefold inspect --waterline`: what ran, what it cost, and what the machine could do."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from edgefold import api
from edgefold.cli import cli
from edgefold.errors import UsageError
from edgefold.files.loading import load_model
from edgefold.files.saving import save_model
from edgefold.measuring.devices import LOCAL, device
from edgefold.measuring.waterline.analysis import NodeRow, Waterline
from edgefold.measuring.waterline.ceilings import ENVIRONMENT, Ceilings, Level, ceilings
from edgefold.measuring.waterline.gap import gap_row, lost_most
from edgefold.measuring.waterline.node_times import RunNode
from edgefold.measuring.waterline.node_work import number, operations
from edgefold.ops import add_functions
from edgefold.passes import Context
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.passes.quantize import Quantize

MODELS = Path(__file__).resolve().parents[1] / "models"
DIGITS = MODELS / "digits_cnn" / "model.onnx"
CHAR_LM = MODELS / "char_lm" / "model.onnx"
MACHINE: dict[str, Any] = {
    "isa": "avx2",
    "float_operations": 1e11,
    "integer_operations": 4e11,
    "levels": [
        {"name": "L1", "bytes": 32768, "bytes_per_second": 2e11},
        {"name": "memory", "bytes": None, "bytes_per_second": 1e10},
    ],
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of known ceilings."""
    path = tmp_path / "ceilings.json"
    path.write_text(json.dumps(MACHINE))
    monkeypatch.setenv(ENVIRONMENT, str(path))
    monkeypatch.setattr("edgefold.measuring.waterline.measure._SECONDS", 0.05)
    return path


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("model", "shapes"), [(DIGITS, ()), (CHAR_LM, ("input_ids=2x24",))])
def test_operations_are_twice_the_multiply_accumulates(model: Path, shapes: tuple[str, ...]) -> None:
    found = api.inspect_waterline(model, shapes=shapes)
    macs = api.inspect(model, shapes=shapes).macs
    assert macs is not None
    assert sum(row.operations for row in found.nodes) == 2 * macs
    assert found.time_us > 0


@pytest.mark.usefixtures("machine")
def test_transposed_convolutions_and_recurrent_layers_count(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 21]>
    g (float[1, 16, 12, 12] image, float[6, 2, 16] steps) => (float y, float h, float r) {
        [up] y = ConvTranspose <group = 2, strides = [2, 2]> (image, w)
        [lstm] h = LSTM <hidden_size = 8> (steps, lstm_w, lstm_r)
        [gru] r = GRU <hidden_size = 8> (steps, gru_w, gru_r)
    }"""
    model = onnx.parser.parse_model(text)
    sizes = {"w": (16, 4, 3, 3), "lstm_w": (1, 32, 16), "lstm_r": (1, 32, 8), "gru_w": (1, 24, 16), "gru_r": (1, 24, 8)}
    for name, shape in sizes.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    found = {row.node: row.operations for row in api.inspect_waterline(path).nodes}
    up, lstm, gru = 16 * 12 * 12 * 4 * 9, 6 * 2 * 32 * (16 + 8), 6 * 2 * 24 * (16 + 8)
    assert found == {"up": 2 * up, "lstm": 2 * lstm, "gru": 2 * gru}
    assert api.inspect(path).macs == up + lstm + gru


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("length", "bound"), [(1, "memory"), (64, "compute")])
def test_floors_follow_from_the_ceilings(length: int, bound: str) -> None:
    found = api.inspect_waterline(CHAR_LM, shapes=(f"input_ids=1x{length}",))
    product = next(row for row in found.nodes if row.operator == "MatMul" and row.intensity > 0.4)
    assert product.bound == bound  # one row reads each weight for two operations, 64 for 128
    compute = product.operations / 1e11 * 1e6
    assert product.floor_us > compute if bound == "memory" else product.floor_us == pytest.approx(compute)
    assert all(row.floor_us > 0 for row in found.nodes if row.bytes)


@pytest.mark.usefixtures("machine")
def test_text_sums_up_by_operator() -> None:
    found = api.inspect_waterline(DIGITS)
    lines = [line.split() for line in found.to_text().splitlines()]
    table = lines[lines.index(["operator", "nodes", "floor", "ms", "time", "ms", "lost", "ms"]) + 1 :]
    counts = {line[0]: int(line[1]) for line in table[: table.index([])]}
    assert counts == Counter(row.operator.rpartition(".")[2] for row in found.nodes)
    assert sum(float(line[3]) for line in table[: len(counts)]) == pytest.approx(found.time_us / 1e3, rel=0.02)
    moving = next(line for line in lines if line[:1] == [next(row.node for row in found.nodes if not row.operations)])
    assert moving[2] == moving[4] == "-"  # no multiply-accumulates to speak of


@pytest.mark.usefixtures("machine")
def test_the_share_of_the_machine_is_that_of_a_run_without_the_profile(tmp_path: Path) -> None:
    text = "\n".join(f"h{i + 1} = Tanh (h{i})" for i in range(200))
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 21]> g (float[1, 4] h0) => (float[1, 4] h200) {{ {text} }}'
    )
    onnx.save(model, tmp_path / "small.onnx")
    found = api.inspect_waterline(tmp_path / "small.onnx")
    assert found.run_us is not None
    assert found.run_us < found.time_us  # of nodes of a tenth of a microsecond, each counted as one or two
    assert f"of {found.run_us:.0f} us in 200 nodes" in found.to_text()
    assert "takes time itself" in found.to_text()


@pytest.mark.usefixtures("machine")
def test_nodes_without_names_are_all_there(tmp_path: Path) -> None:
    proto = onnx.load(DIGITS)
    for node in proto.graph.node:
        node.name = ""
    onnx.save(proto, tmp_path / "nameless.onnx")
    found, wanted = api.inspect_waterline(tmp_path / "nameless.onnx"), api.inspect_waterline(DIGITS)
    assert [row.operator for row in found.nodes] == [row.operator for row in wanted.nodes]


@pytest.mark.usefixtures("machine")
def test_strings_have_no_bytes_that_count(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 21, "ai.onnx.ml" : 3]>
    g (float[2, 3] x) => (string[2] y) {
        i = ArgMax <axis = 1, keepdims = 0> (x)
        y = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1, 2], values_strings = ["a", "b", "c"]> (i)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "labels.onnx")
    assert [row.operator for row in api.inspect_waterline(tmp_path / "labels.onnx").nodes] == [
        "ArgMax",
        "ai.onnx.ml.LabelEncoder",
    ]


@pytest.mark.usefixtures("machine")
def test_blocks_move_fewer_bytes_when_fused() -> None:
    found = api.inspect_waterline(CHAR_LM, shapes=("input_ids=2x24",))
    assert [row.number for row in found.blocks] == [0, 1, 2]
    for block in found.blocks:
        assert block.fused_bytes < block.bytes
        assert block.fused_floor_us < block.floor_us
        assert block.operations == found.blocks[0].operations > 0
    outside = [row for row in found.nodes if row.block is None]
    assert sum(row.operations for row in outside) > 0  # the head


@pytest.mark.usefixtures("machine")
def test_packed_weights_count_as_stored_and_multiply_integers(tmp_path: Path) -> None:
    model = load_model(CHAR_LM).model
    Quantize(weights=4, rounding="nearest").rewrite(model, Context())
    add_functions(model)
    save_model(model, tmp_path / "packed.onnx")
    packed = api.inspect_waterline(tmp_path / "packed.onnx", shapes=("input_ids=2x24",))
    plain = api.inspect_waterline(CHAR_LM, shapes=("input_ids=2x24",))
    shift = [row for row in packed.nodes if row.operator.endswith("ShiftMatMul")]
    assert shift
    assert sum(row.bytes for row in packed.nodes) < sum(row.bytes for row in plain.nodes)
    assert max(row.intensity for row in shift) > max(row.intensity for row in plain.nodes)


@pytest.mark.usefixtures("machine")
def test_fused_layers_count_as_much_as_they_did_apart(tmp_path: Path) -> None:
    model = load_model(CHAR_LM).model
    Quantize(weights=4, rounding="nearest").rewrite(model, Context())
    notes = FuseBlocks(kinds=("feed-forward",)).rewrite(model, Context())
    assert len(notes.edits) == 3
    save_model(model, tmp_path / "fused.onnx")
    shapes = ("input_ids=2x24",)
    fused = api.inspect_waterline(tmp_path / "fused.onnx", shapes=shapes)
    assert sum(row.operations for row in fused.nodes) == 2 * (api.inspect(CHAR_LM, shapes=shapes).macs or 0)
    layers = [layer.node for layer in api.inspect(tmp_path / "fused.onnx", shapes=shapes).layers]
    names = [row.node for row in fused.nodes if row.operator.endswith("FusedFeedForward")]
    assert all(sum(layer.startswith(name) for layer in layers) == 2 for name in names)


ATTENTION = {
    "ShiftAttention": (((1, 4, 5, 8), (1, 2, 7, 8), (1, 2, 7, 6)), (1, 4, 5, 6)),
    "ShiftMultiHeadAttention": (((1, 5, 32), (1, 7, 16), (1, 7, 12)), (1, 5, 24)),
    "CachedAttention": (((1, 4, 5, 8), (1, 2, 7, 8), (1, 2, 7, 1), (1, 2, 7, 6), (1, 2, 7, 1)), (1, 4, 5, 6)),
}


@pytest.mark.parametrize("operator", ATTENTION)
def test_attention_multiplies_integers_for_every_query_and_key(operator: str) -> None:
    inputs, output = ATTENTION[operator]
    one = RunNode(onnx.helper.make_node(operator, ["q"], ["y"]), 1e-6, (*inputs, (1, 1, 1, 1)), (output,), 0, ())
    assert operations(one) == 2 * 4 * 5 * 7 * (8 + 6)
    assert number(one) == "integer"


@pytest.mark.parametrize(("operator", "kind"), [("LSTM", "float"), ("DynamicQuantizeLSTM", "integer")])
def test_a_recurrent_layer_of_integers_is_as_much_work(operator: str, kind: str) -> None:
    weights = [onnx.numpy_helper.from_array(np.ones((1, rows, 32), np.int8), f"w{rows}") for rows in (16, 8)]
    node = onnx.helper.make_node(operator, ["x", "w16", "w8"], ["y"])
    one = RunNode(node, 1e-6, ((6, 2, 16),), ((6, 1, 2, 8),), 0, tuple(weights))
    assert (operations(one), number(one)) == (2 * 6 * 2 * 32 * (16 + 8), kind)
    unknown = RunNode(node, 1e-6, ((6, 2, 16),), ((6, 1, 2, 8),), 0, ())
    assert operations(unknown) == 0  # weights that nothing tells the shape of


def test_two_codes_a_byte_are_as_much_work_as_one() -> None:
    node = onnx.helper.make_node("FusedConvBlock", ["x"], ["y"], domain="ai.edgefold", k=9)
    as_bytes = RunNode(node, 1e-3, ((1, 5, 7, 8),), ((1, 5, 7, 6),), 0, ())
    packed_node = onnx.helper.make_node("FusedConvBlock", ["x"], ["y"], domain="ai.edgefold", k=9, y_packed=1)
    packed = RunNode(packed_node, 1e-3, ((1, 5, 7, 4),), ((1, 5, 7, 3),), 0, ())
    assert operations(packed) == operations(as_bytes) == 2 * 5 * 7 * 6 * 9
    block = {"project_k": 12, "depthwise_k": 9}
    scales = onnx.numpy_helper.from_array(np.ones(6, np.float32), "scales")
    names = [f"i{number}" for number in range(14)] + ["scales"]
    node = onnx.helper.make_node("FusedInvertedResidual", names, ["y"], domain="ai.edgefold", **block)
    packed_node = onnx.helper.make_node(
        "FusedInvertedResidual", names, ["y"], domain="ai.edgefold", x_packed=1, y_packed=1, **block
    )
    as_bytes = RunNode(node, 1e-3, ((1, 5, 7, 8),), ((1, 5, 7, 6),), 0, (scales,))
    packed = RunNode(packed_node, 1e-3, ((1, 5, 7, 4),), ((1, 5, 7, 3),), 0, (scales,))
    assert operations(packed) == operations(as_bytes) == 2 * 12 * 5 * 7 * (8 + 9 + 6)


@pytest.mark.usefixtures("machine")
def test_picture_has_a_disc_for_every_node_that_multiplies(tmp_path: Path) -> None:
    path = tmp_path / "waterline.svg"
    found = api.inspect_waterline(DIGITS, picture=str(path))
    space = {"s": "http://www.w3.org/2000/svg"}
    circles = ET.parse(path).findall("s:circle", space)
    assert len([one for one in circles if one.find("s:title", space) is not None]) == sum(
        1 for row in found.nodes if row.operations and row.time_us
    )


def test_gaps_of_several_models_say_where_time_is_lost(tmp_path: Path, machine: Path) -> None:
    faster = [level | {"bytes_per_second": 20 * level["bytes_per_second"]} for level in MACHINE["levels"]]
    beyond_any = MACHINE | {"float_operations": 2e12, "integer_operations": 8e12, "levels": faster}
    machine.write_text(json.dumps(beyond_any))  # or a good processor would be faster than its floor
    picture = tmp_path / "gap.svg"
    found = api.inspect_gaps([CHAR_LM, DIGITS], shapes=("input_ids=2x24",), picture=str(picture))
    assert [(row.model, row.form) for row in found.rows] == [("char_lm", "model"), ("digits_cnn", "model")]
    for row in found.rows:
        assert 0 < row.floor_ms < row.time_ms
        assert row.fraction == pytest.approx(row.floor_ms / row.time_ms)
        assert sum(one.time_ms for one in row.operators) == pytest.approx(row.profiled_ms)
        assert sum(one.lost_ms for one in row.operators) >= row.profiled_ms - row.floor_ms - 1e-9
    lost = [one.lost_ms for _, one in found.losses()]
    assert lost == sorted(lost, reverse=True)
    assert all(one.operator.rpartition(".")[2] in found.to_text() for _, one in found.losses()[:15])
    circles = ET.parse(picture).findall("s:circle", {"s": "http://www.w3.org/2000/svg"})
    assert len(circles) == 2 * len(found.rows)
    for start, end in zip(circles[::2], circles[1::2], strict=True):
        assert float(str(start.get("cx"))) < float(str(end.get("cx")))


@pytest.mark.usefixtures("machine")
def test_a_shape_that_no_model_has_an_input_for_is_refused() -> None:
    with pytest.raises(UsageError, match="none of the models has such an input"):
        api.inspect_gaps([CHAR_LM, DIGITS], shapes=("ids=2x24",))


def test_operators_faster_than_their_floor_lose_nothing_and_repay_nothing() -> None:
    def node(operator: str, floor: float, time: float) -> NodeRow:
        return NodeRow(operator, operator, 0, 0, 0.0, "L1", floor, time, 1.0, None)

    limits = Ceilings("avx2", 1.0, 1.0, (Level("memory", None, 1.0),))
    nodes = (node("Add", 500.0, 100.0), node("Add", 100.0, 600.0), node("Conv", 1000.0, 3000.0))
    found = Waterline("net.onnx", {}, limits, nodes, (), 1600.0, 3700.0, run_us=3200.0)
    row = gap_row("net", "fp32", found)
    assert (row.time_ms, row.profiled_ms, row.fraction) == (3.2, 3.7, 0.5)  # that of one -m, as `to_text` says it
    assert "50 % of what" in found.to_text()
    assert [(one.operator, one.nodes, one.lost_ms) for one in row.operators] == [("Conv", 1, 2.0), ("Add", 2, 0.5)]
    assert lost_most(row) == "Conv 2, Add 0.5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-m", str(DIGITS)], "give one -m"),
        (["-m", str(DIGITS), "--groups"], "give one -m"),
        (["--waterline", "--groups"], "give one of them"),
        (["--waterline", "--picture", "a.png"], "ends in .svg"),
        (["--picture", "a.svg"], "add --groups or --waterline"),
    ],
)
def test_bad_usage_is_one_line(options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["inspect", "-m", str(DIGITS), *options])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_a_file_that_holds_no_ceilings_is_refused(machine: Path) -> None:
    machine.write_text('{"isa": "avx2"}')
    with pytest.raises(UsageError, match="delete it to measure again"):
        ceilings()


def test_ceilings_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "deeper" / "ceilings.json"))
    monkeypatch.setattr("edgefold.measuring.waterline.ceilings._TRIES", 2)
    monkeypatch.setattr("edgefold.measuring.waterline.ceilings._MEMORY_BYTES", 2**22)
    first = ceilings()
    assert first == ceilings()
    assert first.float_operations > 1e8
    assert first.levels[-1].bytes is None
    assert [one.bytes for one in first.levels[:-1]] == [one.bytes for one in device(LOCAL).levels[:-1]]


def test_a_size_lies_in_the_nearest_level_that_holds_it() -> None:
    limits = Ceilings("avx2", 1.0, 1.0, (Level("L1", 10, 1.0), Level("L2", 20, 1.0), Level("memory", None, 1.0)))
    assert [limits.level(size).name for size in (0, 10, 11, 20, 21)] == ["L1", "L1", "L2", "L2", "memory"]
