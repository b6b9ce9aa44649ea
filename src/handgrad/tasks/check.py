"""Check a backward rule: line by line against autograd, whole against numerical derivatives."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from handgrad.audit import number_formats
from handgrad.audit.judge import Report, audit, audit_probes, worst
from handgrad.audit.numerical import block_errors, error_versus_h
from handgrad.backprop import Cost, Gradients, Parameters, forward
from handgrad.config.errors import WrongGradient
from handgrad.dashboard.pictures.canvas import publish
from handgrad.dashboard.pictures.gallery import error_curves
from handgrad.module import TwoLayerNetwork
from handgrad.rules.feedback import Rule
from handgrad.runs import loading
from handgrad.runs.folder import place_for_figures, write_json
from handgrad.runs.tables import markdown_table, print_losses, print_report
from handgrad.tasks import build

EVIDENCE = {  # method -> its step, and the largest relative error of a right gradient in float64
    "complex": (1e-30, 1e-10),
    "central": (1e-5, 1e-6),
}
ROWS = 64  # of the data at most: the evidence needs one forward pass for each direction


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Check the rule at random points without blind spots, and on the first batch of the data.

    Raises:
        BadInput: if the data, the rule or the checkpoint are not what they must be.
        WrongGradient: if a line is wrong and check.on_failure is "stop".
    """
    network, X, Y = _subject(config, overrides, folder)
    rule = network.updates.rule
    assert rule is not None, "the configuration names a rule"
    params = Parameters(*(parameter.detach() for parameter in network.params))
    probes = [audit_probes(rule, network.cost, d) for d in (torch.float32, torch.float64)]
    report = worst([*probes, audit(rule, params, X, Y, network.cost)])
    evidence = _evidence(rule, params, X, Y, network.cost)
    unproved = [line.name for line in report.lines if not line.ok]
    wrong = list(report.wrong) or unproved or _contradicted(report, evidence)
    title = f"{config['backward']['_target_']}: against autograd, and against numerical derivatives"
    print_report(report, title, evidence)
    figure = error_curves(error_versus_h(params, X, Y, network.cost))
    path = folder / "error_versus_h.png"
    publish(figure, "check/error_versus_h", build.loggers(config, folder), path)
    print(f"The errors of the numerical derivatives: {path}")
    if config["check"]["precision"]:
        _report_losses(config, folder, network, X, Y)
    write_json(place_for_figures(folder, "check"), {"check/wrong": wrong})
    if wrong and config["check"]["on_failure"] == "stop":
        raise WrongGradient(wrong, "task=check")


def _subject(
    config: dict[str, Any], overrides: list[str], folder: Path
) -> tuple[TwoLayerNetwork, Tensor, Tensor]:
    """Return the network, at its first weights or those of `ckpt_path`, and rows of its data."""
    data = build.data(config)
    with build.bad_input():
        data.read()
    network = build.network(config, data)
    if config["ckpt_path"]:
        state = loading.find(config["ckpt_path"], folder, prefer="best").checkpoint["state_dict"]
        with build.bad_input():
            network.load_state_dict(state)
    data.setup("fit")
    rows = min(ROWS, len(data.splits["train"]))
    X, Y = data.splits["train"].take(torch.arange(rows))
    return network.to(X.dtype), X, Y


def _evidence(
    rule: Rule, params: Parameters, X: Tensor, Y: Tensor, cost: Cost
) -> dict[str, dict[str, float]]:
    """Return each method's relative errors of dW1, db1, dW2, db2, or nothing if the rule fails."""
    params = Parameters(*(parameter.double() for parameter in params))
    X, Y, evidence = X.double(), Y.double(), {}
    try:
        gradients: Gradients = rule(params, forward(params, X), X, Y)
        for method, (step, _) in EVIDENCE.items():
            errors = block_errors(gradients, params, X, Y, cost, method=method, step=step)
            evidence[method] = {f"d{block}": error for block, error in errors.items()}
    except Exception:  # the user's own code; the audit's table says what it did
        return {}
    return evidence


def _contradicted(report: Report, evidence: dict[str, dict[str, float]]) -> list[str]:
    """Return the lines that the audit passes and a numerical derivative does not."""
    if any(line.angle is not None for line in report.lines):
        return []  # the rule leaves the gradient on purpose
    return [
        name
        for name in Gradients._fields
        if any(errors.get(name, 0.0) > EVIDENCE[method][1] for method, errors in evidence.items())
    ]


def _report_losses(
    config: dict[str, Any], folder: Path, network: TwoLayerNetwork, X: Tensor, Y: Tensor
) -> None:
    """Show what formats of fewer bits lose: on the terminal, in TensorBoard, as precision.csv."""
    device = build.trainer(config, folder, extra=[]).strategy.root_device
    bind_rule = network.updates.bind_rule
    assert bind_rule is not None, "the configuration names a rule"
    losses = number_formats.measure(bind_rule, network.params, X, Y, network.cost, device)
    print_losses(losses, f"Each line against float64, {len(X)} examples, on {device}")
    table = pd.DataFrame(losses)
    table.to_csv(folder / "precision.csv", index=False)
    text = markdown_table(list(table.columns), table.itertuples(index=False))
    for logger in build.loggers(config, folder):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("check/precision", text)
            logger.experiment.flush()
