"""One part of the data (training, validation or test): scaled rows, by index."""

import numpy as np
import torch
from torch import Tensor

from handgrad.data.examples import Examples
from handgrad.data.scaling import Scaling


class Part:
    """The examples at `indices`, their inputs scaled and their targets as one-hot rows or a column.

    Data in memory are scaled once and kept on the device. A memory-mapped array stays on the disk:
    its rows are read, scaled and encoded when they are taken.

    Args:
        examples: the whole data.
        indices: which examples belong to this part, (m,).
        scaling: fitted on the training part.
        dtype: of inputs and targets.
        device: on which they are used.
    """

    def __init__(
        self,
        examples: Examples,
        indices: np.ndarray,
        scaling: Scaling,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.examples, self.indices, self.scaling = examples, indices, scaling
        self.dtype, self.device = dtype, device
        self.labelled = examples.target is not None
        self.kept = None if isinstance(examples.X, np.memmap) else self.read(indices)

    def __len__(self) -> int:
        """Examples in this part."""
        return len(self.indices)

    @property
    def bytes_per_example(self) -> int:
        """Bytes of one example's inputs."""
        return self.examples.X.shape[1] * self.dtype.itemsize

    def read(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs (m, n_x) and targets (m, n_y) of the examples at `indices` of the whole data."""
        wide = np.float64 if self.dtype == torch.float64 else np.float32
        inputs = torch.from_numpy(self.scaling.apply(self.examples.X[indices], wide))
        targets = (
            torch.from_numpy(self.examples.encode(indices)) if self.labelled else inputs[:, :0]
        )
        return inputs.to(self.device, self.dtype), targets.to(self.device, self.dtype)

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets at `positions` (int64) within this part, gathered."""
        if self.kept is None:
            return self.read(self.indices[positions.numpy()])
        positions = positions.to(self.device)
        inputs, targets = self.kept
        return inputs.index_select(0, positions), targets.index_select(0, positions)

    def rows(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Inputs and targets of consecutive rows; views of what is kept, where it is kept."""
        if self.kept is None:
            return self.read(self.indices[rows])
        inputs, targets = self.kept
        return inputs[rows], targets[rows]
