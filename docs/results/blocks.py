# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/blocks.md: the repeated residual blocks that are found in every model of a folder.

    python docs/results/blocks.py ZOO_FOLDER WORK_FOLDER

ZOO_FOLDER holds what models/zoo/build.py writes: SOURCE/NAME.onnx. A row is a JSON file in WORK_FOLDER; one that is
there is kept, so that an interrupted run goes on where it stopped. What is expected of a network is read off its
definition: how many residual blocks of equal shapes follow each other, stage by stage; a block that stands alone is no
stack, nor is what nothing reads (the stream behind the sixth and last block of WaveNet). A network that is not listed
below has none.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import onnx_ir as ir

from edgefold.measuring.machine import this_machine
from edgefold.passes.depth.blocks import Stack, find_stacks
from edgefold.provenance import versions

HERE = Path(__file__).resolve().parent
VARIANT = re.compile(r"_(ort_\w+|int8|fused|onnxsim|model_dynamo|model_qdq_int8|sdpa)$")
EXPECTED = {
    "minilm": "6", "gpt_charlm": "6", "moe_charlm": "4", "vit_mnist": "6", "char_lm": "3",
    "cifar_resnet20": "3+2+2", "cifar_resnet56": "9+8+8", "imagenet_mobilenetv2": "2+3+2+2",
    "deeplab_mobilenetv2": "2+3+2+2", "ppocr_det_v2": "2+2+2", "onnx_light_resnet50": "2+3+5+2",
    "onnx_light_shufflenet": "3+7+3",
    "conformer": "3", "convnext_tiny": "2+2+4+2", "cspdarknet": "3+3", "deit_tiny_distilled": "6", "edsr": "8",
    "efficientnet_b0": "2+2+3", "gmlp_s16": "4", "hrnet_w18_small": "+".join("2" * 10), "mlp_mixer_s16": "8",
    "mnasnet1_0": "2+2+2+3", "mobilenet_v2": "2+3+2+2", "mobilenet_v3_large": "2+2+2", "mobilevit_s": "2+2",
    "poolformer_s12": "2+2+2+2", "preact_resnet18": "2", "regnet_x_400mf": "6+11", "regnet_y_400mf": "2+5+5",
    "res2net50": "2+3+5+2", "resnet18": "2", "resnet50": "2+3+5+2", "resnext50": "2+3+5+2",
    "resnext50_32x4d": "2+3+5+2", "se_resnet50": "2+3+5+2", "wide_resnet50_2": "2+3+5+2", "shufflenet_v1_g4": "3+4",
    "style_transfer": "3", "swin_t": "2", "vit_small": "6", "vit_torch_encoder": "4", "xcit_t": "4",
    "mobilenet_v3_small": "2+2", "transformer_encoder": "2", "mha": "2", "jax/transformer": "2",
    "EfficientNetB0": "2+2+3", "EfficientNetV2B0": "2+4+7", "MobileNetV2": "2+3+2+2",
    "MobileNetV3Small": "2+2", "ResNet50": "2+3+5+2", "ResNet50V2": "2+4+2", "Xception": "8",
    "albert": "2", "bert": "2", "distilbert": "2", "roberta": "2", "opt": "2", "gpt2": "2", "llama": "2", "phi3": "2",
    "qwen2": "2", "vit": "2", "whisper_encoder": "2", "bart": "2+2", "t5": "2+2", "nn_transformer": "2+2",
    "tcn": "4", "wavenet": "5",
}  # fmt: skip


def main(zoo: Path, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in sorted(zoo.glob("*/*.onnx")):
        record = work / f"{path.parent.name}.{path.stem}.json"
        if not record.exists():
            record.write_text(json.dumps(measure(path)))
        rows.append(json.loads(record.read_text()))
        print(path.parent.name, path.stem, rows[-1][4], flush=True)
    (HERE / "blocks.md").write_text(page(rows), encoding="utf-8")


def expected(path: Path) -> str:
    """Blocks of each stack, joined by plus signs; "none" for no stack."""
    name = path.stem.removeprefix("data_")
    base = VARIANT.sub("", name)
    return next((EXPECTED[key] for key in (f"{path.parent.name}/{base}", base) if key in EXPECTED), "none")


def measure(path: Path) -> list[str]:
    """The row of a model."""
    model = ir.load(path)
    begin = time.process_time()
    stacks = find_stacks(model)
    seconds = time.process_time() - begin
    blocks = [block for stack in stacks for block in stack.blocks]
    free = f"{sum(block.obstacle is None for block in blocks)} of {len(blocks)}" if blocks else "-"
    found = "+".join(str(len(stack.blocks)) for stack in stacks) or "none"
    kinds = "; ".join(dict.fromkeys(made_of(stack) for stack in stacks))
    return [path.parent.name, path.stem, str(len(model.graph)), expected(path), found, kinds, free, f"{seconds:.2f}"]


def made_of(stack: Stack) -> str:
    return ", ".join(half.kind for half in stack.blocks[0].halves) or stack.name.split(" ", 1)[1].removesuffix(
        " blocks"
    )


def page(rows: list[list[str]]) -> str:
    wrong = [row for row in rows if row[3] != row[4]]
    with_stacks = sum(row[3] != "none" for row in rows)
    machine = this_machine()
    built_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    slowest = max(rows, key=lambda row: float(row[7]))
    lines = [
        "# Repeated blocks",
        "",
        "The residual blocks that `edgefold inspect`, `remove-blocks` and `share-weights` find in the models of many",
        "exporters, optimizers and quantizers. `expected` is read off the definition of the network: blocks of equal",
        "shapes in a row, stage by stage; `found` is what the finder says without looking at a name; `free` counts",
        "blocks that can be cut out by connecting what reads their end to their start. Files named `_fused` come from",
        "ONNX Runtime's transformer optimizer: in a pre-norm network it joins each addition with the normalization of",
        "the next layer, so that the stream is two values, the first block looks unlike the others, and none can be",
        "cut out. Compress before fusing; the other optimized and quantized forms have all their blocks.",
        "",
        f"Machine: {machine.cpu}, {machine.cores} cores; {built_with}.",
        "How to make the models: [models/zoo](../../models/zoo/README.md).",
        "Command: `python docs/results/blocks.py ZOO WORK`. `seconds`: processor time of the finder.",
        "",
        f"**{len(rows) - len(wrong)} of {len(rows)} files as expected**, {with_stacks} of them with stacks. "
        f"Slowest: {slowest[7]} s ({slowest[0]} {slowest[1]}, {slowest[2]} nodes).",
        *(f"- Otherwise: {row[0]} {row[1]}: {row[4]} instead of {row[3]}." for row in wrong),
        "",
        "| source | model | nodes | expected | found | made of | free | seconds |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in sorted(rows, key=lambda row: (row[3] == "none", row[0], row[1]))),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
