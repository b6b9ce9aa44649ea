"""HParams tab of TensorBoard, with the same columns in every run and only measured figures.

TensorBoard takes the first run's columns for all. So all runs declare the same ones, and a run that
lacks a key (plain descent has no momentum) leaves its cell empty. The metrics are the very curves:
no extra point is written for the table.
"""

# pyright: reportAttributeAccessIssue=false
# Protocol buffers make their classes when they are imported.

from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

COLUMNS = {  # the key in the configuration, and whether its values are numbers
    "data": False,
    "data.batch_size": True,
    "model.hidden": True,
    "model.init": False,
    "cost": False,
    "backward": False,
    "backward.mistake": False,
    "optimizer": False,
    "optimizer.lr": True,
    "optimizer.momentum": True,
    "optimizer.weight_decay": True,
    "optimizer.clip_norm": True,
    "optimizer.accumulate": True,
    "scheduler": False,
    "trainer.precision": False,
    "trainer.devices": True,
    "trainer.max_epochs": True,
    "seed": True,
}
SHOWN = ("data", "data.batch_size", "model.hidden", "optimizer", "optimizer.lr")
METRICS = (
    *("accuracy/test", "cost/test", "accuracy/val", "cost/val", "cost/train"),
    *("run/updates", "run/fit_seconds"),
)


def values(config: dict[str, Any]) -> dict[str, str | float]:
    """Return the hyperparameters of a configuration, without those that it lacks.

    Args:
        config: validated, in plain containers. A group's name is that of the class it makes.
    """
    found = {}
    for key, number in COLUMNS.items():
        group, _, name = key.rpartition(".")
        value = (config[group] if group else config).get(name)
        if isinstance(value, dict):
            value = (value["_target_"] or "none").rpartition(".")[2]
        if isinstance(value, int | float) == number and value is not None:
            found[key] = value
    return found


def columns() -> Summary:
    """Return the columns of hyperparameters and metrics that every run declares."""
    types = {True: api_pb2.DATA_TYPE_FLOAT64, False: api_pb2.DATA_TYPE_STRING}
    experiment = api_pb2.Experiment(
        hparam_infos=[
            # TensorBoard opens with the first five, those that are said to differ before others.
            api_pb2.HParamInfo(name=key, type=types[number], differs=key in SHOWN)
            for key, number in COLUMNS.items()
        ],
        metric_infos=[
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=tag)
            for tag in METRICS
        ],
    )
    return _summary(metadata.EXPERIMENT_TAG, experiment=experiment)


def began(hyperparameters: dict[str, str | float], folder: Path) -> Summary:
    """Return the start of a run with its hyperparameters.

    Two runs with the same hyperparameters stay two rows.
    """
    run = f"{folder.name} ({folder.parent.name})"  # the column is narrow: what differs comes first
    return hparams_pb(hyperparameters, trial_id=run)  # pyright: ignore - one key type of several


def ended(failed: bool) -> Summary:
    """Return the end of a run."""
    status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
    return _summary(
        metadata.SESSION_END_INFO_TAG,
        session_end_info=plugin_data_pb2.SessionEndInfo(status=status),
    )


def _summary(tag: str, **content: Any) -> Summary:
    """Return plugin data without a value."""
    held = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    return Summary(value=[Summary.Value(tag=tag, metadata=held, tensor=metadata.NULL_TENSOR)])
