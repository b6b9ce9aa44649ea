"""What a training that is continued takes from its checkpoint, and what from the command line.

Weights, averages of gradients and the place in the schedule are the checkpoint's. Settings are
those of the command line: the same ones, or such as `on_change=accept` let pass.
"""

from typing import Any

from torch.optim import Optimizer

RATES = ("lr", "initial_lr")


def take_settings(checkpoint: dict[str, Any], config: dict[str, Any], made: Optimizer) -> None:
    """Let a checkpoint's states of optimizer and scheduler have the settings of this run.

    A new learning rate holds at its place in the schedule; a new kind of schedule begins anew.

    Args:
        checkpoint: as it was read; changed in place.
        config: of this run.
        made: an optimizer of this run that has not stepped.
    """
    was = checkpoint["config"]
    factor = config["optimizer"]["lr"] / was["optimizer"]["lr"]
    goes_on = was["scheduler"]["_target_"] == config["scheduler"]["_target_"]
    (state,) = checkpoint["optimizer_states"]
    kept = state["param_groups"][0] if goes_on else {}
    rates = {key: factor * kept[key] for key in RATES if key in kept}
    state["param_groups"] = [{**group, **rates} for group in made.state_dict()["param_groups"]]
    if not goes_on:
        checkpoint["lr_schedulers"] = []
    for schedule in checkpoint["lr_schedulers"]:
        schedule |= {key: value for key, value in config["scheduler"].items() if key in schedule}
        if "base_lrs" in schedule:
            schedule["base_lrs"] = [factor * rate for rate in schedule["base_lrs"]]
