"""An untrained network in every form that a predictor opens. Its keypoints mean nothing."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from carkp.config.loading import load_config
from carkp.config.schema import ExperimentConfig
from carkp.deploy.float_onnx import export_float_onnx
from carkp.deploy.int8_onnx import save_program
from carkp.keypoints.codec import CODEC_KEY, HeatmapCodec, codec_to_json
from carkp.model.half_weights import HalfWeights, encode_half_weights
from carkp.model.pose_net import PoseNet
from carkp.quant.calibrate import Observer, choose_thresholds, observe
from carkp.quant.convert import convert
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.fold import fold
from carkp.quant.target import Target
from carkp.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from carkp.workflow.build import build_codec, build_model

ROOT = Path(__file__).parents[1]
SIZE = (64, 64)


@dataclass(frozen=True)
class TinyModels:
    """Files, the network in them, and its codec."""

    checkpoint: Path
    float_onnx: Path
    int8_onnx: Path
    int8_onnx_b1: Path
    net: PoseNet
    codec: HeatmapCodec
    config: ExperimentConfig

    @property
    def all(self) -> dict[str, Path]:
        return {
            "float checkpoint": self.checkpoint,
            "float ONNX": self.float_onnx,
            "int8 ONNX": self.int8_onnx,
            "int8 ONNX of batch 1": self.int8_onnx_b1,
        }


def build_tiny_models(folder: Path) -> TinyModels:
    config = load_config(ROOT / "configs" / "tiny.yaml", [])
    built = build_model(config)
    net = built.net.eval()
    codec = build_codec(config.heatmap, SIZE)
    weights = net.state_dict()
    checkpoint = Checkpoint(built.architecture, weights, config.model_dump(mode="json"), epoch=1, training_state={})
    save_checkpoint(checkpoint, folder / "best.pt")
    export_float_onnx(net, SIZE, folder / "float.onnx", {CODEC_KEY: codec_to_json(codec)})
    program = convert(_calibrated(net), {CODEC_KEY: codec_to_json(codec)})
    save_program(program, folder / "int8.onnx")
    save_program(program, folder / "int8_b1.onnx", batch=1)
    paths = (folder / name for name in ("best.pt", "float.onnx", "int8.onnx", "int8_b1.onnx"))
    return TinyModels(*paths, net, codec, config)


def ship(models: TinyModels, root: Path) -> Path:
    """The folder of ``carkp-car12`` below ``root`` with the untrained network and a card that says nothing."""
    folder = root / "car12"
    folder.mkdir(parents=True)
    config = models.config.model_dump(mode="json")
    notes = {CODEC_KEY: codec_to_json(models.codec), "commit": "0123456789abcdef"}
    checkpoint = load_checkpoint(models.checkpoint)
    content = HalfWeights(checkpoint.architecture, config, 1, notes, models.net.state_dict())
    (folder / "weights.safetensors").write_bytes(encode_half_weights(content))
    shutil.copy(models.int8_onnx, folder / "int8.onnx")
    (folder / "card.md").write_text("# carkp-car12")
    (folder / "card.yaml").write_text("name: carkp-car12")
    return folder


def _calibrated(net: PoseNet) -> FakeQuantNet:
    document = yaml.safe_load((ROOT / "configs" / "targets" / "onnxruntime_cpu.yaml").read_text())
    target = Target.model_validate({name: document[name] for name in Target.model_fields if name in document})
    quantised = FakeQuantNet(fold(net, SIZE), target, target.per_channel_weights).eval()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.uniform(-1, 1, (8, 3, *SIZE)).astype(np.float32))
    observers = dict.fromkeys(quantised.num_levels, Observer("minmax", 100.0))
    histograms = observe(quantised.graph, [images], 1)
    quantised.set_thresholds(choose_thresholds(histograms, quantised.num_levels, observers))
    return quantised
