"""The devices' weights must be the same to the last bit; where they are not, training stops."""

from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import Parameter
from typing_extensions import override

from handgrad.errors import Failed

INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def fingerprint(parameters: list[Parameter]) -> Tensor:
    """For each parameter the sum of its values' bit patterns as integers, modulo 2**64.

    A change of any single value changes it, and its order of summation does not.

    Returns:
        int64, (number of parameters,).
    """
    patterns = (
        parameter.detach().view(INTEGERS[parameter.element_size()]) for parameter in parameters
    )
    return torch.stack([pattern.sum(dtype=torch.int64) for pattern in patterns])


def differing(parameters: dict[str, Parameter]) -> list[str]:
    """The names of the parameters that are not the same on all devices; one all-reduce."""
    mine = fingerprint(list(parameters.values()))
    both = torch.cat([mine, -mine])  # the largest, and the negative of the smallest
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    largest, negative_smallest = both.chunk(2)
    return [
        name
        for name, same in zip(parameters, (largest == -negative_smallest).tolist(), strict=True)
        if not same
    ]


class DriftCheck(Callback):
    """Stops the training when the devices' weights differ.

    It looks when the curves get a point, and at the end of each epoch: where values leave the
    device anyway.
    """

    def look(self, trainer: L.Trainer, network: L.LightningModule) -> None:
        """Compare the weights of all devices.

        Raises:
            Failed: on every device alike; names the parameters.
        """
        if trainer.world_size == 1:
            return
        if names := differing(dict(network.named_parameters())):
            raise Failed(
                f"the devices' weights differ in {', '.join(names)} after update "
                f"{trainer.global_step}: the training is worth nothing from here on"
            )

    @override
    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if trainer.global_step % every == 0:
            self.look(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.look(trainer, pl_module)
