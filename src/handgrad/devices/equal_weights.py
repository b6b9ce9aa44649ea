"""Equal weights on several devices, without Lightning's DDP wrapper.

The wrapper's hooks never fire on written gradients, and the devices would drift apart without an
error (Lightning issue 9237, PyTorch issue 47562). Its work is done elsewhere: training/gradients.py
sums over the devices, and here all devices get the first one's weights before training. While they
train, the weights must stay the same to the last bit, or training stops.
"""

import atexit
import os
from datetime import timedelta
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.nn import Parameter
from typing_extensions import override

from handgrad.config.errors import BadInput, Failed
from handgrad.devices import ranks

INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


class DriftCheck(Callback):
    """Stops the training when the devices' weights differ.

    It compares them when the curves get a point and at the end of each epoch, where values leave
    the device anyway.
    """

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the weights of all devices.

        Raises:
            Failed: on every device alike, with the names of the parameters.
        """
        if trainer.world_size == 1:
            return
        if names := _differing(dict(pl_module.named_parameters())):
            raise Failed(
                f"the devices' weights differ in {', '.join(names)} after update "
                f"{trainer.global_step}: the training is invalid from here on"
            )

    @override
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if trainer.global_step % every == 0:
            self.on_train_epoch_end(trainer, pl_module)


def _differing(parameters: dict[str, Parameter]) -> list[str]:
    """Return the names of the parameters that differ between devices, with one all-reduce.

    Compared is each one's sum of its values' bit patterns as integers, int64 modulo 2**64. A change
    of any single value changes it, and the order of summation does not.
    """
    patterns = (
        parameter.detach().view(INTEGERS[parameter.element_size()])
        for parameter in parameters.values()
    )
    mine = torch.stack([pattern.sum(dtype=torch.int64) for pattern in patterns])
    both = torch.cat([mine, -mine])  # the largest, and the negative of the smallest
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    largest, negative_smallest = both.chunk(2)
    return [
        name
        for name, same in zip(parameters, (largest == -negative_smallest).tolist(), strict=True)
        if not same
    ]


def agree(trainer: L.Trainer, facts: dict[str, Any]) -> None:
    """Refuse devices that would train differently.

    Args:
        trainer: of this device.
        facts: of the training, plain values by key, which must be the same on all devices.

    Raises:
        BadInput: on every device alike, with the keys, the values and the devices that have them.
    """
    trainer.strategy.setup_environment()  # which fit() would do; now nothing is touched yet
    everyone: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(everyone, {key: str(value) for key, value in facts.items()})
    lines = []
    for key in dict.fromkeys(key for each in everyone for key in each):
        devices: dict[str, list[str]] = {}
        for rank, each in enumerate(everyone):
            devices.setdefault(each.get(key, "missing"), []).append(str(rank))
        if len(devices) > 1:
            values = (f"{value} on {', '.join(of)}" for value, of in devices.items())
            lines.append(f"{key}={'; '.join(values)}")
    if lines:
        raise BadInput(f"the devices would train differently: {'. '.join(lines)}")


class EqualWeights(DDPStrategy):
    """Strategy with one process for each device: all make the same updates of the same weights.

    Args:
        timeout: seconds that a device waits for another one.
    """

    def __init__(self, timeout: float) -> None:
        self.seconds = timeout
        super().__init__(timeout=timedelta(seconds=timeout))

    @classmethod
    def for_flags(cls, trainer: dict[str, Any], timeout: float) -> Strategy | str:
        """Return the strategy for the flags of a Trainer, whose devices are counted."""
        devices = trainer["devices"]
        count = len(devices) if isinstance(devices, list) else devices
        return cls(timeout) if count * trainer["num_nodes"] > 1 else "auto"

    @override
    def setup_distributed(self) -> None:
        """Join the other processes."""
        if not dist.is_initialized():
            self.set_world_ranks()
            on_cpu = self.root_device.type == "cpu"
            store = self._store()
            dist.init_process_group(
                self._get_process_group_backend(),
                init_method="env://" if store is None else None,
                store=store,
                rank=self.global_rank,
                world_size=self.world_size,
                timeout=self._timeout,
                device_id=None if on_cpu else self.root_device,
            )
            atexit.register(dist.destroy_process_group)  # NCCL warns about one that is left
        super().setup_distributed()

    def _store(self) -> dist.Store | None:
        """Return what the devices find each other through, or None for that of torchrun.

        Raises:
            BadInput: if this is not to be had, or nodes contradict each other.
            Failed: if devices did not come in time.
        """
        if path := os.environ.get(ranks.RENDEZVOUS):
            ranks.use_interface("127.0.0.1")
            return dist.FileStore(path, self.world_size)
        if ranks.launched_by() == "torchrun":
            return None
        default = None
        if nodes := os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_NODELIST")):
            first = SLURMEnvironment.resolve_root_node_address(nodes)
            default = first, 15_000 + int(os.environ.get("SLURM_JOB_ID", "0")[-4:])
        address, devices = ranks.address_of_first(default), self.num_processes
        met = ranks.meet(self.global_rank, self.world_size, devices, address, self.seconds)
        ranks.use_interface(met.own)
        return dist.TCPStore(
            met.host,
            met.port,
            is_master=met.listening is not None,
            timeout=timedelta(seconds=self.seconds),
            wait_for_workers=False,
            master_listen_fd=met.listening.detach() if met.listening else None,
        )

    @override
    def configure_ddp(self) -> None:
        """Copy the first device's weights to all, and wrap nothing."""
        assert self.model is not None, "the Trainer connects the model first"
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            dist.broadcast(tensor.detach(), src=0)
