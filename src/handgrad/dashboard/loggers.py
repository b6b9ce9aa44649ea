"""Lightning's loggers for metrics.csv and TensorBoard, made to continue where a run resumes.

The charts of TensorBoard carry their equations.
"""

# pyright: reportAttributeAccessIssue=false
# Protocol buffers make their classes when they are imported.

import csv
from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, Summary, SummaryMetadata
from typing_extensions import override

from handgrad.config.errors import expect
from handgrad.dashboard.sections import DESCRIPTIONS

# Written at the end of a training, and again if that end is repeated.
END = ("cost/test", "run/fit_seconds")
VERSION = b"brain.Event:2"  # the first event of a file


class CsvLog(CSVLogger):
    """Writes each point into metrics.csv at once, and continues the file of a resumed run.

    Lightning's own logger would begin a new file.

    Args:
        settings: of `CSVLogger`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, flush_logs_every_n_steps=1)

    @override
    @rank_zero_only
    def save(self) -> None:
        """Write the newest rows.

        Raises:
            FileNotFoundError: if the file of the earlier rows is gone.
        """
        if self.experiment.metrics_keys:
            expect(Path(self.experiment.metrics_file_path))
        super().save()

    def forget_after(self, step: int) -> None:
        """Keep the earlier rows up to the update that the run resumes from.

        Args:
            step: the update; -1 to keep none.
        """
        path, rows = Path(self.log_dir, "metrics.csv"), []
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # the last one may be torn
            rows = [row for row in csv.DictReader(whole) if int(row["step"]) <= step]
            rows = [row for row in rows if not any(row.get(name) for name in END)]
        for row in rows:  # the writer of the experiment removes the file when it is made
            self.experiment.metrics.append({name: cell for name, cell in row.items() if cell})
        self.save()


class EventLog(TensorBoardLogger):
    """Writes all scalars of one moment as one event, each with its description.

    A scalar costs a tenth of `SummaryWriter.add_scalar`, which makes an event of every value.

    Args:
        settings: of `TensorBoardLogger`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.described: set[str] = set()
        self.resumed_at: int | None = None

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        known = self.written_before if step == self.resumed_at else frozenset()
        new = {tag: float(figure) for tag, figure in metrics.items() if tag not in known}
        if new:
            self.write(Summary(value=[self._value(*each) for each in new.items()]), step)

    @cached_property
    def written_before(self) -> frozenset[str]:
        """Return the tags already written at the update that the run resumes from.

        There are some where the run was killed after its training, before all of its end.
        """
        files = sorted(Path(self.log_dir).glob("events.out.tfevents.*"))
        events = chain.from_iterable(EventFileLoader(str(file)).Load() for file in files)
        tags: set[str] = set()
        for event in events:
            if event.HasField("session_log") and event.step <= self.resumed_at:
                tags.clear()  # the resumed run that began here made TensorBoard forget them
            elif event.step == self.resumed_at:
                tags |= {value.tag for value in event.summary.value}
        return frozenset(tags)

    def _value(self, tag: str, figure: float) -> Summary.Value:
        """Return one scalar, with a description on the first point of its tag.

        TensorBoard takes the description from there.
        """
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
        """Write what is buffered, without Lightning's hparams.yaml: the HParams tab has it all.

        Raises:
            OSError: if that failed, here or in TensorBoard's thread, or the file is gone.
        """
        self.experiment.flush()
        expect(Path(self.experiment._get_file_writer().event_writer._file_name), VERSION)

    @rank_zero_only
    def write(self, summary: Summary, step: int | None) -> None:
        """Write a summary at an update."""
        self.experiment._get_file_writer().add_summary(summary, step)

    @rank_zero_only
    def write_graph(self, graph: GraphDef) -> None:
        """Write the content of the Graphs tab."""
        self.experiment._get_file_writer().add_event(Event(graph_def=graph.SerializeToString()))

    @rank_zero_only
    def forget_after(self, step: int) -> None:
        """Make TensorBoard forget what the run wrote after the update that it resumes from."""
        if not any(Path(self.log_dir).glob("events.out.tfevents.*")):
            return
        self.resumed_at = step
        start = SessionLog(status=SessionLog.START)
        self.experiment._get_file_writer().add_event(Event(session_log=start), step + 1)
