"""Writes and opens ArrayRecord files and TFDS data sets; what the tests of them share."""

import io

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from jepa_jax.config import defaults
from jepa_jax.data.sources import open_source

CLASSES = ("cat", "dog")
PAIR = {
    "image": tfds.features.Image(shape=(None, None, 3)),
    "label": tfds.features.ClassLabel(names=CLASSES),
}


def png(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_records(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path


def write_tfds(folder, splits, spec=PAIR, shards=1):
    """Writes what TFDS would: {split: [{entry: value}]} in files of a folder name/version."""
    folder.mkdir(parents=True)
    features, name, infos = tfds.features.FeaturesDict(spec), folder.parent.name, []
    for split, examples in splits.items():
        records = [features.serialize_example(features.encode_example(e)) for e in examples]
        parts = [list(part) for part in np.array_split(np.array(records, object), shards)]
        for i, part in enumerate(parts):
            file = f"{name}-{split}.array_record-{i:05}-of-{shards:05}"
            write_records(folder / file, part)
        lengths = [len(part) for part in parts]
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=0))
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=features,
        split_infos=infos,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        check_data=False,
    )
    return folder


def pets(count=6):
    """Images and labels, in the order in which class folders would be read."""
    half = count // 2
    return [{"image": io.BytesIO(png(i)), "label": int(i >= half)} for i in range(count)]


def tf_example(**entries):
    """An Example of bytes and whole numbers; '__' in a name stands for '/'."""
    message = tf_example_pb2.Example()
    for key, value in entries.items():
        feature = message.features.feature[key.replace("__", "/")]
        kind = feature.bytes_list if isinstance(value, bytes) else feature.int64_list
        kind.value.append(value)
    return message.SerializeToString()


def settings(source, path, **changes):
    data = defaults().data
    with data.unlocked():
        data.update(source=source, path=str(path), **changes)
    return data


def read_tfds(root, name="pets", split="train", **changes):
    return open_source(settings("tfds", root, name=name, **changes), split)


def read_records(path, **changes):
    return open_source(settings("array_record", path, **changes), "train")


def labels(source):
    return source.labels(np.arange(len(source))).tolist()


def contents(source):
    return [(source[i].image, source[i].label) for i in range(len(source))]
