"""Checks that a call has the model and the text of the run that it resumes."""

from train.config import TrainConfig, read_config
from train.config_json import to_json
from train.workdir import Workdir, differences, read_json

TEXT_FIELDS = ("dataset", "path", "data_dir", "validation_fraction")
"""Fields of DataConfig that select the text."""


def check_run(config: TrainConfig, workdir: Workdir) -> list[str]:
    """Return the differences between this config and that of the run in the working directory, if there is one.

    Raises:
      ValueError: the model differs, so that the run's checkpoints cannot be used, or the run's config cannot be read.
    """
    if not workdir.config_path.exists():
        return []
    old, new = read_config(workdir.config_path), to_json(config)
    differing = differences({"model": old.get("model")}, {"model": new["model"]})
    if differing:
        listing = "\n  ".join(differing)
        raise ValueError(
            f"the run in {workdir.path} has another model; give another --workdir, or the same settings:\n  {listing}"
        )
    return [line for line in differences(old, new) if not line.startswith("steps:")]


def check_text(config: TrainConfig, workdir: Workdir, identity: dict) -> list[str]:
    """Return the differences between this text and that of the run, if the config selects another text.

    Raises:
      ValueError: the text differs although the config selects the same one, so the command would not resume the run.
    """
    if not (workdir.config_path.exists() and workdir.data_path.exists()):
        return []
    differing = differences(read_json(workdir.data_path), identity)
    old, new = read_config(workdir.config_path).get("data"), to_json(config)["data"]
    if differing and not differences(*({name: data.get(name) for name in TEXT_FIELDS} for data in (old, new))):
        listing = "\n  ".join(differing)
        raise ValueError(
            f"the text has changed since the run in {workdir.path} began:\n  {listing}\nPut the earlier text back, or "
            f"give another --workdir. Without {workdir.data_path} the run goes on over the text as it is now."
        )
    return differing
