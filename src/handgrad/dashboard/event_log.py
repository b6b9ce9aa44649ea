"""Lightning's TensorBoard logger, whose charts carry their equations."""

# pyright: reportAttributeAccessIssue=false
# Protocol buffers make their classes when they are imported.

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, Summary, SummaryMetadata
from typing_extensions import override

from handgrad.dashboard.sections import DESCRIPTIONS


class EventLog(TensorBoardLogger):
    """Writes all scalars of one moment as one event, each with its description.

    A scalar costs a tenth of `SummaryWriter.add_scalar`, which makes an event of every value.

    Args:
        settings: of `TensorBoardLogger`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.described: set[str] = set()

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        values = [self.value(tag, float(figure)) for tag, figure in metrics.items()]
        self.write(Summary(value=values), step)

    def value(self, tag: str, figure: float) -> Summary.Value:
        """One scalar; TensorBoard takes the description from a tag's first point."""
        if tag in self.described or tag not in DESCRIPTIONS:
            return Summary.Value(tag=tag, simple_value=figure)
        self.described.add(tag)
        metadata = SummaryMetadata(
            plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"),
            summary_description=DESCRIPTIONS[tag],
            data_class=DATA_CLASS_SCALAR,
        )
        return Summary.Value(tag=tag, simple_value=figure, metadata=metadata)

    @override
    @rank_zero_only
    def save(self) -> None:
        """Write what is waiting; the hyperparameters have a tab, and need no file of their own."""
        self.experiment.flush()

    @rank_zero_only
    def write(self, summary: Summary, step: int | None) -> None:
        """Write a summary at an update."""
        self.experiment._get_file_writer().add_summary(summary, step)

    @rank_zero_only
    def write_graph(self, graph: GraphDef) -> None:
        """Write what the graph tab shows."""
        self.experiment._get_file_writer().add_event(Event(graph_def=graph.SerializeToString()))

    @rank_zero_only
    def forget_after(self, step: int) -> None:
        """Make TensorBoard forget what the run wrote after the update that it resumes from."""
        start = SessionLog(status=SessionLog.START)
        self.experiment._get_file_writer().add_event(Event(session_log=start), step + 1)
