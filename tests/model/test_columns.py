"""Columns of tables, which processors and pipelines take as the lists that they hold."""

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from modeling_perceiver_study import (
    PerceiverStudyFeatureExtractor,
    PerceiverStudyImageProcessor,
    PerceiverStudyPointCloudProcessor,
    PerceiverStudyTokenizer,
    PerceiverStudyVideoProcessor,
)
from tests.pipelines import SAMPLES, pipeline_of

RNG = np.random.default_rng(0)
PROCESSORS = {
    "sound": PerceiverStudyFeatureExtractor(sampling_rate=1000),
    "channels": PerceiverStudyFeatureExtractor(sampling_rate=1000, feature_size=2),
    "points": PerceiverStudyPointCloudProcessor(num_axes=3),
    "image": PerceiverStudyImageProcessor(size={"height": 4, "width": 4}, do_fourier_encode=False),
    "video": PerceiverStudyVideoProcessor(size={"height": 4, "width": 4}, num_frames=2),
    "text": lambda texts: PerceiverStudyTokenizer()(texts, padding=True),
}
LISTS = {
    "sound": [RNG.standard_normal(size).astype(np.float32) for size in (30, 30, 20)],
    "channels": [RNG.standard_normal((2, size)).astype(np.float32) for size in (30, 30, 20)],
    "points": [RNG.standard_normal((size, 3)) for size in (5, 5, 4)],
    "image": [Image.fromarray(RNG.integers(0, 255, (4, 4, 3), dtype=np.uint8)) for _ in range(3)],
    "video": [RNG.integers(0, 255, (2, 4, 4, 3), dtype=np.uint8) for _ in range(3)],
    "text": ["a", "bb", "c"],
}


def _rows(samples: list) -> list:
    return [sample.tolist() if isinstance(sample, np.ndarray) else sample for sample in samples]


def _objects(samples: list) -> np.ndarray:
    made = np.empty(len(samples), object)
    made[:] = samples
    return made


COLUMNS = {
    "datasets": lambda samples: datasets.Dataset.from_dict({"column": samples})["column"],
    "pandas": pd.Series,
    "parquet": lambda samples: pa.table({"column": _rows(samples)}).to_pandas()["column"],
    "pyarrow": lambda samples: pa.table({"column": _rows(samples)})["column"],
    "objects": _objects,
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_column_is_the_list_that_it_holds(kind, column):
    if kind == "image" and column in ("parquet", "pyarrow"):
        pytest.skip("pyarrow holds no pictures")
    expected, found = (PROCESSORS[kind](samples) for samples in (LISTS[kind], COLUMNS[column](LISTS[kind])))
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(np.asarray(values), np.asarray(expected[name]), atol=1e-6)


@pytest.mark.parametrize("column", ["parquet", "pyarrow"])
@pytest.mark.parametrize("kind", ["sound", "points"])
def test_a_cell_is_one_sample(kind, column):
    found = PROCESSORS[kind](COLUMNS[column](LISTS[kind])[0])
    for name, values in PROCESSORS[kind](LISTS[kind][:1]).items():
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(values), atol=1e-6)


def test_a_column_of_numbers_is_one_recording_and_keeps_its_dtype():
    samples = np.arange(-50, 50, dtype=np.int16)
    expected = PROCESSORS["sound"](samples)["input_values"]
    np.testing.assert_array_equal(PROCESSORS["sound"](pd.Series(samples))["input_values"], expected)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("kind", ["sound", "points", "video"])
def test_pipelines_take_columns(kind, column):
    # Of lists, which have no dtype but one of 64 bits, whatever it was before.
    answer, samples = pipeline_of(kind), [np.array(sample.tolist()) for sample in SAMPLES[kind]]
    for found, expected in zip(answer(COLUMNS[column](samples)), answer(samples), strict=True):
        assert [one["label"] for one in found] == [one["label"] for one in expected]
        assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-5)
