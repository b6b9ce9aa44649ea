"""One run of a sweep: not again if it is done, and from where it was if it was interrupted."""

from handgrad import launch


def run(job: launch.Job, *, side_by_side: bool) -> None:
    """Run a job, unless an earlier command of the same sweep has done so.

    Args:
        job: validated.
        side_by_side: whether other runs of the sweep share the screen with this one.

    Raises:
        BadInput: if the job does, or its folder holds a run with other settings.
        Failed: if the job fails.
    """
    config = job.config
    if side_by_side:
        config = {**config, "trainer": {**config["trainer"], "enable_progress_bar": False}}
    if config["task"] == "train" and config["ckpt_path"] is None:
        from handgrad import earlier  # late: it brings torch, which other tasks may not need

        config = {**config, "ckpt_path": earlier.checkpoint_to_continue(job.folder, config)}
        if earlier.is_done(job.folder):
            print(f"{job.folder.name} is done already and not run again", flush=True)
            return
        if config["ckpt_path"]:
            print(f"{job.folder.name} goes on where it was interrupted", flush=True)
    launch.run(job._replace(config=config), parallel_launcher=side_by_side)
