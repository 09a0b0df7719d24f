"""A TFDS data set for tests. In a file of its own: TFDS takes every name once per process."""

import numpy as np
import tensorflow_datasets as tfds


class RecurraxTestText(tfds.core.GeneratorBasedBuilder):
    """A data set whose config says which splits and features it has."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS = {
        "all_splits": {"train": 6, "validation": 3, "test": 2},
        "with_test": {"train": 6, "test": 2},
        "train_only": {"train": 40},
        "one_document": {"train": 1},
        "no_train": {"test": 2},
        "blank": {"train": 3, "validation": 3},
        "body": {"train": 2, "validation": 2},
        "no_text": {"train": 2},
        "two_texts": {"train": 2},
        "needs_package": {"train": 2},
    }
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in SPLITS]

    def _info(self):
        names = {"no_text": [], "two_texts": ["question", "answer"], "body": ["body"]}
        texts = {name: tfds.features.Text() for name in names.get(self.builder_config.name, ["text", "title"])}
        features = tfds.features.FeaturesDict({"label": tfds.features.Scalar(np.int64), **texts})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        if self.builder_config.name == "needs_package":
            raise ModuleNotFoundError("No module named 'apache_beam'", name="apache_beam")
        return {split: self._generate_examples(split, n) for split, n in self.SPLITS[self.builder_config.name].items()}

    def _generate_examples(self, split, count):
        for i in range(count):
            text = "" if self.builder_config.name == "blank" else f"{split} {i} äöü " * (i + 1)
            names = [name for name, f in self.info.features.items() if isinstance(f, tfds.features.Text)]
            yield f"{split}{i}", {"label": i} | {name: name if name == "title" else text for name in names}
