"""Several devices without Lightning's DDP wrapper, whose hooks never fire on written gradients.

What the wrapper would do is done elsewhere: gradient_sum.py sums over the devices, and here the
first device's weights are given to all before training. (With the wrapper and hand-written
gradients the devices drift apart without an error: Lightning issue 9237, PyTorch issue 47562.)
"""

import atexit
import os
from datetime import timedelta
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor
from torch.nn import Parameter
from typing_extensions import override

from handgrad.config.errors import Failed
from handgrad.devices import ranks
from handgrad.devices.launch import RENDEZVOUS

# FOLDED from drift.py: "The devices' weights must be the same to the last bit; where they are not, training stops."
INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def _bit_sums(parameters: list[Parameter]) -> Tensor:
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
    mine = _bit_sums(list(parameters.values()))
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


class EqualWeights(DDPStrategy):
    """One process for each device; all hold the same weights and make the same updates.

    Args:
        timeout: seconds that a device waits for another one.
    """

    def __init__(self, timeout: float) -> None:
        # Our own launcher's processes are no tasks of SLURM, even within a job of it.
        environment = None if ranks.launched_by() else LightningEnvironment()
        super().__init__(cluster_environment=environment, timeout=timedelta(seconds=timeout))

    @override
    def setup_distributed(self) -> None:
        """Join the others, through the file of our own launcher where there is one."""
        rendezvous = os.environ.get(RENDEZVOUS, "")
        if rendezvous.startswith("file:") and not dist.is_initialized():
            self.set_world_ranks()
            on_cpu = self.root_device.type == "cpu"
            dist.init_process_group(
                self._get_process_group_backend(),
                init_method=rendezvous,
                rank=self.global_rank,
                world_size=self.world_size,
                timeout=self._timeout,
                device_id=None if on_cpu else self.root_device,
            )
            atexit.register(dist.destroy_process_group)  # NCCL warns where it is left
        super().setup_distributed()

    @override
    def configure_ddp(self) -> None:
        """Give the first device's weights to all; nothing is wrapped."""
        assert self.model is not None, "the Trainer connects the model first"
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            dist.broadcast(tensor.detach(), src=0)


def choose(trainer: dict[str, Any], timeout: float) -> Strategy | str:
    """The strategy for the flags of a Trainer, its devices counted."""
    devices = trainer["devices"]
    count = len(devices) if isinstance(devices, list) else devices
    return EqualWeights(timeout) if count * trainer["num_nodes"] > 1 else "auto"
