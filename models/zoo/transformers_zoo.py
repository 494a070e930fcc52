# SPDX-License-Identifier: Apache-2.0
"""Architectures of the transformers package, small, with random weights; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch_export import Example

VOCABULARY = 200
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
WORDS = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 64}


class FirstOutput(nn.Module):
    """A transformers model that returns its first output alone and takes positional arguments by name."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *arrays: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, arrays, strict=True)), return_dict=False)[0]


class TwoInputs(FirstOutput):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return super().forward(first, second)


class OneInput(FirstOutput):
    def forward(self, only: Tensor) -> Tensor:
        return super().forward(only)


def build(model: str, config: str, names: tuple[str, ...], options: dict[str, Any]) -> nn.Module:
    """Instantiates ``model`` of the package from a fresh configuration."""
    options = dict(options)
    architecture = getattr(transformers, model)
    eager = options.pop("eager", False) or not architecture._supports_sdpa
    chosen = getattr(transformers, config)(**options)
    chosen._attn_implementation = "eager" if eager else "sdpa"
    chosen._experts_implementation = "eager"  # the others have no ONNX form
    for switch in ("use_cache", "output_attentions"):
        setattr(chosen, switch, False)
    made = architecture(chosen).eval()
    return (OneInput if len(names) == 1 else TwoInputs)(made, names)


def words(model: str, **options: Any) -> tuple[Callable[[], nn.Module], Example]:
    """A text model: ids and a mask of [batch, length]."""
    names = ("input_ids", "attention_mask")
    axes = {0: "batch", 1: "length"}
    example = Example(dict.fromkeys(names, (2, 12)), dict.fromkeys(names, axes), ids=names)
    return partial(build, model, config_of(model), names, {**WORDS, **options}), example


def pairs(model: str, **options: Any) -> tuple[Callable[[], nn.Module], Example]:
    """An encoder and a decoder: ids for both."""
    names = ("input_ids", "decoder_input_ids")
    example = Example(dict.fromkeys(names, (2, 9)), {name: {0: "batch"} for name in names}, ids=names)
    return partial(build, model, config_of(model), names, {"vocab_size": VOCABULARY, **options}), example


def pictures(model: str, side: int = 64, **options: Any) -> tuple[Callable[[], nn.Module], Example]:
    names = ("pixel_values",)
    example = Example({"pixel_values": (2, 3, side, side)}, {"pixel_values": {0: "batch"}})
    return partial(build, model, config_of(model), names, {"image_size": side, "num_labels": 10, **options}), example


def sound(model: str, name: str, shape: tuple[int, ...], **options: Any) -> tuple[Callable[[], nn.Module], Example]:
    example = Example({name: (2, *shape)}, {name: {0: "batch"}})
    return partial(build, model, config_of(model), (name,), options), example


def config_of(model: str) -> str:
    """BertModel, BertForMaskedLM, ... -> BertConfig."""
    for ending in ("ForCausalLM", "ForMaskedLM", "ForSequenceClassification", "ForImageClassification", "LMHeadModel",
                   "ForConditionalGeneration", "ForSemanticSegmentation", "ForCTC", "WithProjection", "Encoder",
                   "Model"):  # fmt: skip
        if model.endswith(ending):
            return model.removesuffix(ending) + "Config"
    raise ValueError(model)


DECODER = {**WORDS, "num_key_value_heads": 2, "head_dim": 16}
SMALL_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"}
SMALL_BART = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 64,
}  # fmt: skip
STAGES = {"embed_dim": 48, "depths": [2, 2], "num_heads": [3, 6], "window_size": 4}


def catalogue() -> dict[str, tuple[Callable[[], nn.Module], Example]]:
    """Name -> builder and example."""
    return {**text(), **vision(), **other()}


def text() -> dict[str, tuple[Callable[[], nn.Module], Example]]:
    gpt = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY}
    return {
        "bert": words("BertForMaskedLM"),
        "distilbert": words("DistilBertForSequenceClassification", dim=64, n_layers=2, n_heads=4, hidden_dim=128),
        "roberta": words("RobertaModel"),
        "albert": words("AlbertModel", embedding_size=32, num_hidden_groups=1),
        "electra": words("ElectraModel", embedding_size=32),
        "deberta_v2": words("DebertaV2Model", relative_attention=True, pos_att_type=["p2c", "c2p"], eager=True),
        "mpnet": words("MPNetModel"),
        "modernbert": words("ModernBertModel", global_attn_every_n_layers=1, pad_token_id=0, eager=True),
        "t5": pairs("T5ForConditionalGeneration", **SMALL_T5),
        "bart": pairs("BartModel", **SMALL_BART),
        "marian": pairs("MarianModel", **SMALL_BART, pad_token_id=0),
        "gpt2": words("GPT2LMHeadModel", **gpt),
        "gpt_neox": words("GPTNeoXForCausalLM"),
        "opt": words("OPTForCausalLM", ffn_dim=128, word_embed_proj_dim=64),
        "bloom": words("BloomForCausalLM", n_layer=2, n_head=4),
        "llama": words("LlamaForCausalLM", **DECODER),
        "mistral": words("MistralForCausalLM", **DECODER),
        "qwen2": words("Qwen2ForCausalLM", **DECODER),
        "qwen3": words("Qwen3ForCausalLM", **DECODER),
        "phi3": words("Phi3ForCausalLM", **{**DECODER, "pad_token_id": 0}),
        "gemma": words("GemmaForCausalLM", **DECODER),
        "gemma2": words("Gemma2ForCausalLM", **DECODER),
        "mixtral": words("MixtralForCausalLM", **DECODER, num_local_experts=4, num_experts_per_tok=2),
        "mamba": words("MambaForCausalLM", state_size=8, expand=2, conv_kernel=4),
    }


def vision() -> dict[str, tuple[Callable[[], nn.Module], Example]]:
    segments = {
        "depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 4, 4],
        "decoder_hidden_size": 64,
    }  # fmt: skip
    return {
        "vit": pictures("ViTForImageClassification", **SIZES, patch_size=16),
        "deit": pictures("DeiTForImageClassification", **SIZES, patch_size=16),
        "dinov2": pictures("Dinov2ForImageClassification", 56, **{**SIZES, "mlp_ratio": 2}, patch_size=14),
        "swin": pictures("SwinForImageClassification", **STAGES),
        "swinv2": pictures("Swinv2ForImageClassification", **STAGES),
        "segformer": pictures("SegformerForSemanticSegmentation", **segments),
        "convnext": pictures("ConvNextForImageClassification", depths=[2, 2, 2, 2], hidden_sizes=[48, 96, 192, 384]),
        "resnet": pictures("ResNetForImageClassification", depths=[2, 2, 2, 2]),
        "regnet": pictures("RegNetForImageClassification", depths=[1, 1, 2, 2]),
        "mobilenet_v1": pictures("MobileNetV1ForImageClassification"),
        "mobilenet_v2": pictures("MobileNetV2ForImageClassification"),
        "efficientnet": pictures("EfficientNetForImageClassification", width_coefficient=1.0, depth_coefficient=1.0,
                                 hidden_dim=1280),
        "levit": pictures("LevitForImageClassification"),
        "poolformer": pictures("PoolFormerForImageClassification"),
        "mobilevit": pictures("MobileViTForImageClassification"),
        "hiera": pictures("HieraForImageClassification", 64, embed_dim=48, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8],
                          query_stride=[2, 2], masked_unit_size=[8, 8], patch_stride=[4, 4]),
        "beit": pictures("BeitForImageClassification", **SIZES, patch_size=16, use_relative_position_bias=True),
        "bit": pictures("BitForImageClassification", depths=[1, 1, 1, 1]),
        "cvt": pictures("CvtForImageClassification", depth=[1, 1, 2], embed_dim=[32, 64, 128], num_heads=[1, 2, 4]),
        "pvt_v2": pictures("PvtV2ForImageClassification", depths=[1, 1, 1, 1]),
        "vit_mae": pictures("ViTMAEModel", **SIZES, patch_size=16, mask_ratio=0.0),
        "clip_vision": pictures("CLIPVisionModelWithProjection", **SIZES, patch_size=16, projection_dim=32),
        "siglip_vision": pictures("SiglipVisionModel", **SIZES, patch_size=16, vision_use_head=False),
    }  # fmt: skip


def other() -> dict[str, tuple[Callable[[], nn.Module], Example]]:
    speech = {
        "conv_dim": [64, 64], "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 32,
    }  # fmt: skip
    whisper = {
        **SMALL_BART,
        "max_source_positions": 50,
        "num_mel_bins": 80,
        "pad_token_id": 0,
        "vocab_size": VOCABULARY,
    }
    return {
        "wav2vec2": sound("Wav2Vec2ForCTC", "input_values", (800,), **SIZES, **speech),
        "hubert": sound("HubertForCTC", "input_values", (800,), **SIZES, **speech),
        "whisper_encoder": (partial(whisper_encoder, whisper), Example({"mels": (2, 80, 100)}, {"mels": {0: "batch"}})),
        "clip_text": words("CLIPTextModelWithProjection", projection_dim=32, eos_token_id=5),
    }


def whisper_encoder(options: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    model = transformers.WhisperModel(transformers.WhisperConfig(**options)).eval()
    return OneInput(model.get_encoder(), ("input_features",))
