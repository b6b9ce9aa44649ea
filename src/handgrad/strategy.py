"""Several devices without Lightning's DDP wrapper, whose hooks never fire on written gradients.

What the wrapper would do is done elsewhere: gradient_sum.py sums over the devices, and here the
first device's weights are given to all before training. (With the wrapper and hand-written
gradients the devices drift apart without an error: Lightning issue 9237, PyTorch issue 47562.)
"""

import atexit
import os
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from typing_extensions import override

from handgrad import ranks
from handgrad.launch import RENDEZVOUS


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
