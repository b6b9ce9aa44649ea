"""Export a trained network: sequential.pt for plain PyTorch, model.onnx for everything else."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handgrad.config.errors import BadInput, Failed
from handgrad.module import TwoLayerNetwork
from handgrad.runs import loading

EXAMPLES = 16


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Export `ckpt_path`, run what was exported, and compare the outputs.

    Both files take inputs scaled as in training, as the network itself does.

    Raises:
        BadInput: if the checkpoint cannot be read, or the extra is not installed.
        Failed: if the outputs of an exported model differ from the network's.
    """
    try:
        import onnxruntime
    except ImportError:
        raise BadInput('task=export requires the extra: pip install -e ".[export]"') from None
    checkpoint = loading.find(config["ckpt_path"], folder, prefer="best").checkpoint
    network = loading.network(checkpoint).float().eval()
    inputs = torch.randn(EXAMPLES, network.W1.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(inputs)
        path = folder / "sequential.pt"
        torch.save(_state(network), path)
        _compare(path.name, expected, _sequential(torch.load(path, weights_only=True))(inputs))
    path = folder / "model.onnx"
    _write_onnx(_sequential(_state(network)), inputs, path)
    (outputs,) = onnxruntime.InferenceSession(path).run(None, {"inputs": inputs.numpy()})
    _compare(path.name, expected, torch.from_numpy(outputs))
    print(f"model.onnx and sequential.pt are in {folder}; both match the network")


def _state(network: TwoLayerNetwork) -> dict[str, Tensor]:
    """Return the weights as nn.Sequential(Linear, Sigmoid, Linear, Sigmoid) names them."""
    names = ("0.weight", "0.bias", "2.weight", "2.bias")
    return {name: each.detach() for name, each in zip(names, network.params, strict=True)}


def _sequential(state: dict[str, Tensor]) -> nn.Sequential:
    """Build the same network of PyTorch's own layers, from its weights alone."""
    (n_h, n_x), n_y = state["0.weight"].shape, len(state["2.weight"])
    made = nn.Sequential(nn.Linear(n_x, n_h), nn.Sigmoid(), nn.Linear(n_h, n_y), nn.Sigmoid())
    made.load_state_dict(state)
    return made.eval()


def _write_onnx(network: nn.Sequential, inputs: Tensor, path: Path) -> None:
    """Write an ONNX model with any number of examples in a batch."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision; we do not
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not the user's
        torch.onnx.export(
            network,
            (inputs,),
            path,
            input_names=["inputs"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("examples")},),
            external_data=False,
            verbose=False,
        )


def _compare(name: str, expected: Tensor, outputs: Tensor) -> None:
    """Refuse an exported model whose outputs differ from the network's.

    Raises:
        Failed: with the largest difference.
    """
    difference = (expected - outputs).abs().max().item()
    if not difference < 1e-5:
        raise Failed(f"{name}: its outputs differ from the network's by {difference:.1e}")
