"""Many jobs on one group of processes, because starting a group takes seconds."""

import os
import shutil
import traceback
from pathlib import Path

import forked
import lightning as L
import numpy as np

from handgrad.config.errors import Failed
from handgrad.devices import launch, ranks


def write_examples(path: Path, examples: int, features: int = 7, classes: int = 3) -> Path:
    """Points around one centre for each class; a part of them overlaps."""
    draw = np.random.default_rng(examples)
    labels = np.arange(examples) % classes
    centres = draw.normal(size=(classes, features))
    np.savez(path, X=centres[labels] + draw.normal(size=(examples, features)), y=labels)
    return path


def work(jobs: list[launch.Job], rank: int, rendezvous: str) -> None:
    """Run the jobs on one device; leave its weights or its error, and all checkpoints in kept/."""
    os.environ |= {ranks.RENDEZVOUS: rendezvous, "LOCAL_RANK": str(rank)}
    import torch

    from handgrad.module import TwoLayerNetwork
    from handgrad.runs.checkpointing import LastCheckpoint

    torch.set_num_threads(1)
    save = LastCheckpoint.save

    def save_and_copy(self: LastCheckpoint, trainer: L.Trainer) -> None:
        save(self, trainer)
        if rank == 0 and self.path.exists():
            folder = Path(trainer.default_root_dir) / "kept" / str(trainer.global_step)
            shutil.copytree(self.path.parent, folder, dirs_exist_ok=True)

    def leave_weights(self: TwoLayerNetwork) -> None:
        folder = Path(self.trainer.default_root_dir)
        torch.save([each.detach() for each in self.params], folder / f"device{rank}.pt")

    TwoLayerNetwork.on_train_end = leave_weights
    LastCheckpoint.save = save_and_copy
    for job in jobs:
        try:
            launch.run_task(job)
        except Failed as error:
            (job.folder / f"device{rank}.error").write_text(str(error))
        except BaseException:
            (job.folder / f"device{rank}.trace").write_text(traceback.format_exc())
            raise


def run_on(devices: int, jobs: list[launch.Job], folder: Path) -> None:
    """Run all jobs on a group of that many processes."""
    context = forked.server()
    rendezvous = f"{folder}/store{devices}"
    processes = [
        context.Process(target=work, args=(jobs, rank, rendezvous)) for rank in range(devices)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(400)
        if process.exitcode != 0:
            for each in processes:
                each.kill()
            traces = sorted(folder.glob("*/*.trace"), key=lambda each: each.stat().st_mtime)
            said = "\n".join(f"{each}:\n{each.read_text()}" for each in traces)
            raise AssertionError(f"a device ended with {process.exitcode}; first to last:\n{said}")
