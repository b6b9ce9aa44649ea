"""Export a trained network: sequential.pt for plain PyTorch, model.onnx for everything else."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from handgrad.config.errors import BadInput, Failed
from handgrad.devices.lightning import hide_hints
from handgrad.module import TwoLayerNetwork
from handgrad.runs import loading

EXAMPLES = 16


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Export `ckpt_path`, run what was exported, and compare the answers.

    Both take inputs scaled as in training, as the network itself does.

    Raises:
        BadInput: if the checkpoint cannot be read, or the extra is not installed.
        Failed: if an exported model answers otherwise than the network.
    """
    hide_hints()
    try:
        import onnxruntime
    except ImportError:
        raise BadInput("task=export needs the extra: pip install -e '.[export]'") from None
    checkpoint = loading.find(config["ckpt_path"], folder, prefer="best").checkpoint
    network = loading.network(checkpoint).float().eval()
    inputs = torch.randn(EXAMPLES, network.W1.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = network(inputs)
    torch.save(state_for_sequential(network), folder / "sequential.pt")
    compare("sequential.pt", answers, run_sequential(folder / "sequential.pt", inputs))
    write_onnx(sequential(network), inputs, folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    compare("model.onnx", answers, torch.from_numpy(onnx_answers(session, inputs.numpy())))
    Console().print(f"model.onnx and sequential.pt are in {folder}, compared", soft_wrap=True)


def state_for_sequential(network: TwoLayerNetwork) -> dict[str, Tensor]:
    """The weights as nn.Sequential(Linear, Sigmoid, Linear, Sigmoid) names them."""
    names = ("0.weight", "0.bias", "2.weight", "2.bias")
    return {name: each.detach() for name, each in zip(names, network.params, strict=True)}


def sequential(network: TwoLayerNetwork) -> nn.Sequential:
    """The same network in PyTorch's own layers."""
    n_y, n_h = network.W2.shape
    made = nn.Sequential(
        nn.Linear(network.W1.shape[1], n_h), nn.Sigmoid(), nn.Linear(n_h, n_y), nn.Sigmoid()
    )
    made.load_state_dict(state_for_sequential(network))
    return made.eval()


def run_sequential(path: Path, inputs: Tensor) -> Tensor:
    """What the weights in a file answer."""
    state = torch.load(path, weights_only=True)
    (n_h, n_x), n_y = state["0.weight"].shape, len(state["2.weight"])
    made = nn.Sequential(nn.Linear(n_x, n_h), nn.Sigmoid(), nn.Linear(n_h, n_y), nn.Sigmoid())
    made.load_state_dict(state)
    with torch.no_grad():
        return made(inputs)


def write_onnx(network: nn.Sequential, inputs: Tensor, path: Path) -> None:
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


def onnx_answers(session: Any, inputs: np.ndarray) -> np.ndarray:
    """What an ONNX session answers."""
    return session.run(None, {"inputs": inputs})[0]


def compare(name: str, expected: Tensor, answers: Tensor) -> None:
    """Refuse an exported model that answers otherwise than the network.

    Raises:
        Failed: with the largest difference.
    """
    difference = (expected - answers).abs().max().item()
    if not difference < 1e-5:
        raise Failed(f"{name} differs from the network by {difference:.1e}")
