"""The processor for clouds of points, and its pipeline."""

import io
import json
import os
import tracemalloc

import numpy as np
import pytest
import torch
from pypcd4 import PointCloud

from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForPointCloudClassification,
    PerceiverStudyModel,
    PerceiverStudyPointCloudClassificationPipeline,
    PerceiverStudyPointCloudProcessor,
    PerceiverStudyProcessor,
)
from modeling_perceiver_study.point_reading import open_points
from tests.file_server import serving
from tests.fresh_processes import python

PLY = b"""ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
property float weight
property uchar red
end_header
0 0 0 0.5 255
1 0 0 0.25 0
1 0 2 0.25 51
"""
OFF = b"OFF\n4 2 0\n0 0 0\n4 0 0\n0 4 0\n4 4 0\n3 0 1 2\n3 1 3 2\n"
PCD = b"""# .PCD v.7 - Point Cloud Data file format
VERSION .7
FIELDS x y z intensity
SIZE 4 4 4 4
TYPE F F F F
COUNT 1 1 1 1
WIDTH 2
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 2
DATA ascii
0 0 0 1
1 nan 0 2
"""


@pytest.fixture
def cloud():
    return np.random.default_rng(0).normal(size=(40, 3)) * [1, 2, 3] + [10, -4, 3]


def build_model(dtype=torch.float32, **fields):
    torch.manual_seed(0)
    small = {"num_latents": 6, "d_latents": 32, "num_self_attention_heads": 4, "initializer_range": 0.3}
    config = PerceiverStudyConfig(input_type="points", num_axes=3, max_frequencies=6, **small, **fields)
    return PerceiverStudyForPointCloudClassification(config).eval().to(dtype)


def test_mean_and_sphere(cloud):
    (points,) = PerceiverStudyPointCloudProcessor()(cloud)["points"]
    assert points.dtype == torch.float32
    assert points.mean(dim=0).abs().max() < 1e-6 and points.norm(dim=1).max() == pytest.approx(1)
    expected = cloud - cloud.mean(axis=0)
    np.testing.assert_allclose(points, expected / np.linalg.norm(expected, axis=1).max(), atol=1e-6)


def test_box(cloud):
    (points,) = PerceiverStudyPointCloudProcessor(center="box", scale="box")(cloud)["points"]
    assert points.abs().max() == pytest.approx(1)
    np.testing.assert_allclose(points.amin(dim=0), -points.amax(dim=0), atol=1e-6)


def test_nothing_is_changed_if_so_wished(cloud):
    (points,) = PerceiverStudyPointCloudProcessor(center=None, scale=None)(cloud)["points"]
    np.testing.assert_array_equal(points, cloud.astype(np.float32))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int32, torch.float32, torch.bfloat16, list])
def test_kinds_of_numbers(kind):
    numbers = np.array([[0, 0, 0], [2, 0, 0], [0, 4, 1]])
    if kind is list:
        given = numbers.tolist()
    else:
        given = torch.tensor(numbers, dtype=kind) if isinstance(kind, torch.dtype) else numbers.astype(kind)
    processor = PerceiverStudyPointCloudProcessor()
    torch.testing.assert_close(processor(given)["points"], processor(numbers)["points"])


def test_clouds_of_different_sizes(cloud):
    processor = PerceiverStudyPointCloudProcessor()
    batch = processor([cloud, cloud[:7], torch.from_numpy(cloud[:1])])
    assert batch["points"].shape == (3, 40, 3) and batch["attention_mask"].sum(dim=1).tolist() == [40, 7, 1]
    assert batch["attention_mask"].dtype == torch.int64
    for row, length in enumerate((40, 7, 1)):
        torch.testing.assert_close(batch["points"][row, :length], processor(cloud[:length])["points"][0])
        assert not batch["points"][row, length:].any()
    assert processor(np.stack([cloud, cloud]))["points"].shape == (2, 40, 3)
    assert processor(cloud)["attention_mask"].all()


def test_features(cloud):
    colours = np.random.default_rng(1).random((40, 2))
    batch = PerceiverStudyPointCloudProcessor(num_features=2)([np.hstack([cloud, colours])])
    np.testing.assert_array_equal(batch["point_features"][0], colours.astype(np.float32))


@pytest.mark.parametrize("num_axes", [1, 2, 4])
def test_other_numbers_of_axes(num_axes):
    given = np.random.default_rng(0).random((5, num_axes))
    assert PerceiverStudyPointCloudProcessor(num_axes=num_axes)(given)["points"].shape == (1, 5, num_axes)


@pytest.mark.parametrize("sampling", ["random", "farthest"])
def test_points_are_taken_whatever_their_order(cloud, sampling):
    processor = PerceiverStudyPointCloudProcessor(num_points=12, sampling=sampling)
    first = processor(cloud)["points"][0]
    other = processor(cloud[np.random.default_rng(1).permutation(40)])["points"][0]
    assert len(first) == 12 and len(first.unique(dim=0)) == 12
    torch.testing.assert_close(first, other)
    torch.testing.assert_close(processor(cloud.astype(np.float32))["points"][0], first, atol=1e-5, rtol=0)
    assert len(processor(cloud[:5])["points"][0]) == 5


@pytest.mark.parametrize("sampling", ["random", "farthest"])
def test_zeros_of_either_sign_are_one_number(sampling):
    cloud = np.random.default_rng(0).integers(-2, 3, (40, 3)).astype(np.float64)
    processor = PerceiverStudyPointCloudProcessor(num_points=12, sampling=sampling)
    torch.testing.assert_close(processor(np.where(cloud == 0, -0.0, cloud))["points"], processor(cloud + 0.0)["points"])


def test_random_points_are_as_good_as_chance():
    line = np.arange(10000.0)[:, None]
    taken = PerceiverStudyPointCloudProcessor(num_axes=1, num_points=1000, center=None, scale=None)(line)["points"][0]
    counts = np.histogram(taken[:, 0], bins=10, range=(0, 10000))[0]
    assert abs(counts - 100).max() < 40  # four standard deviations


def test_equal_points_are_taken_as_often_as_chance_has_it():
    """Of 300 places with 2,048 points 512 hold about 247; one place that half of the points have keeps half."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((300, 3))[rng.integers(0, 300, 2048)]
    taken = PerceiverStudyPointCloudProcessor(num_points=512, center=None, scale=None)(points)["points"][0]
    assert 220 < len(torch.unique(taken, dim=0)) < 275
    again = PerceiverStudyPointCloudProcessor(num_points=512, center=None, scale=None)(rng.permutation(points))
    assert torch.equal(again["points"][0], taken)
    points = np.concatenate([rng.standard_normal((1000, 3)), np.zeros((1000, 3))])
    taken = PerceiverStudyPointCloudProcessor(num_points=1024, center=None, scale=None)(points)["points"][0]
    assert 0.4 < (taken == 0).all(dim=1).double().mean() < 0.6


def test_farthest_points_cover_thin_parts():
    dense, thin = np.random.default_rng(0).normal(size=(500, 3)) * 0.1, np.eye(3)[:2] * 5
    settings = {"num_points": 8, "center": None, "scale": None}
    taken = PerceiverStudyPointCloudProcessor(sampling="farthest", **settings)(np.vstack([dense, thin]))["points"][0]
    assert (taken.norm(dim=1) > 4).sum() == 2


@pytest.mark.parametrize("count", [1, 2, 1000])
@pytest.mark.parametrize("center", ["mean", "box"])
def test_equal_points_become_zeros(count, center):
    given = np.full((count, 3), [0.1, -1e7 / 3, 1 / 3])
    for num_points in (None, 5):
        points = PerceiverStudyPointCloudProcessor(center=center, num_points=num_points)(given)["points"]
        assert not points.any()


@pytest.mark.parametrize("center", ["mean", "box", None])
@pytest.mark.parametrize("scale", ["sphere", "box"])
@pytest.mark.parametrize("factor", [1e-300, 1e-170, 1e-12, 1e12, 1e155, 1e200, 1e307])
def test_very_small_and_large_clouds_keep_their_shape(factor, scale, center):
    given = np.random.default_rng(0).normal(size=(20, 3))
    processor = PerceiverStudyPointCloudProcessor(scale=scale, center=center)
    torch.testing.assert_close(processor(given * factor)["points"], processor(given)["points"])


@pytest.mark.parametrize("sampling", ["random", "farthest"])
@pytest.mark.parametrize("exponent", [-900, -120, 120, 900])
def test_points_of_very_small_and_large_clouds_are_taken_whatever_their_order(exponent, sampling):
    given = np.ldexp(np.random.default_rng(0).normal(size=(40, 3)), exponent)
    processor = PerceiverStudyPointCloudProcessor(num_points=12, sampling=sampling)
    first = processor(given)["points"][0]
    torch.testing.assert_close(processor(given[::-1].copy())["points"][0], first)
    assert len(first.unique(dim=0)) == 12


def test_points_that_are_not_numbers(cloud):
    cloud[[3, 8]] = [np.nan, 0, 0], [np.inf, 0, 0]
    with pytest.raises(ValueError, match=r"2 points that are NaN or infinite, the first of them point 3: \[nan, 0"):
        PerceiverStudyPointCloudProcessor()(cloud)
    dropped = PerceiverStudyPointCloudProcessor(on_nan="drop")(cloud)["points"]
    torch.testing.assert_close(dropped, PerceiverStudyPointCloudProcessor()(np.delete(cloud, [3, 8], 0))["points"])


@pytest.mark.parametrize(
    "given, message",
    [
        (np.zeros((0, 3)), "has no points"),
        (np.full((2, 3), np.nan), "NaN or infinite"),
        (np.zeros((5, 4)), r"\(5, 4\): expected \(points, 3\) with num_axes=3 and num_features=0"),
        (np.zeros(5), r"shape \(5,\)"),
        ([], "at least one cloud"),
        ([[[0, 0, 0], [1, 1]]], "different lengths"),
        ([np.array([["a", "b", "c"]])], "expected numbers"),
        (b"nonsense", "expected a .npy, .ply, .off or .pcd file"),
        (b"ply\nformat ascii 1.0\nelement vertex 3\n", "cannot be read as a cloud of points"),
    ],
)
def test_what_is_not_a_cloud(given, message):
    with pytest.raises(ValueError, match=message):
        PerceiverStudyPointCloudProcessor()(given)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_axes": 0},
        {"num_axes": True},
        {"num_features": -1},
        {"num_points": 0},
        {"center": "median"},
        {"scale": 2},
        {"sampling": "even"},
        {"on_nan": "ignore"},
        {"feature_names": ["red"]},
        {"feature_names": "rgb", "num_features": 3},
        {"feature_names": [1], "num_features": 1},
    ],
)
def test_arguments_are_checked(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}=.*expected"):
        PerceiverStudyPointCloudProcessor(**settings)


def test_files(cloud, tmp_path):
    np.save(tmp_path / "cloud.npy", cloud)
    np.testing.assert_array_equal(open_points(tmp_path / "cloud.npy"), cloud)
    np.testing.assert_array_equal(open_points((tmp_path / "cloud.npy").read_bytes()), cloud)
    rows = [[0, 0, 0, 0.5, 1], [1, 0, 0, 0.25, 0], [1, 0, 2, 0.25, 0.2]]
    np.testing.assert_allclose(open_points(PLY), rows)
    np.testing.assert_allclose(open_points(PLY, feature_names=["red"]), np.array(rows)[:, [0, 1, 2, 4]])
    np.testing.assert_array_equal(open_points(PCD)[:, 3], [1, 2])
    with pytest.raises(ValueError, match="no field blue; there are x, y, z, weight, red"):
        open_points(PLY, feature_names=["blue"])
    with pytest.raises(FileNotFoundError):
        open_points(tmp_path / "missing.ply")
    plain = PerceiverStudyPointCloudProcessor(center=None, scale=None)(PLY)["points"]
    np.testing.assert_allclose(plain[0], np.array(rows)[:, :3])  # what a model of coordinates has no use for is left
    with pytest.raises(ValueError, match=r"expected \(points, 4\).*feature_names say which fields"):
        PerceiverStudyPointCloudProcessor(num_features=1)(PLY)
    both = PerceiverStudyPointCloudProcessor()([str(tmp_path / "cloud.npy"), cloud])["points"]
    torch.testing.assert_close(both[0], both[1])


def test_colours_of_the_pcl(tmp_path):
    colours = np.array([[255, 0, 0], [0, 255, 51]], np.uint8)
    places = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    packed = PointCloud.encode_rgb(colours)[:, None]
    PointCloud.from_xyzrgb_points(np.concatenate([places, packed], axis=1)).save(tmp_path / "colours.pcd")
    np.testing.assert_allclose(open_points(tmp_path / "colours.pcd"), np.concatenate([places, colours / 255], axis=1))


def test_a_field_that_holds_nothing_is_no_feature():
    assert open_points(PCD.replace(b"intensity", b"_filling")).shape == (2, 3)


def test_filling_of_the_pcl():
    filled = PCD
    for old, new in {"z ": "z _ ", "4 4 4 4": "4 4 4 1 4", "F F F F": "F F F U F", "1 1 1 1": "1 1 1 2 1"}.items():
        filled = filled.replace(old.encode(), new.encode(), 1)
    filled = filled.replace(b"0 0 0 1\n", b"0 0 0 7 7 1\n").replace(b"1 nan 0 2", b"1 nan 0 7 7 2")
    np.testing.assert_array_equal(open_points(filled), open_points(PCD))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_fields_of_one_number_need_no_count(end):
    np.testing.assert_array_equal(
        open_points(PCD.replace(b"COUNT 1 1 1 1\n", b"").replace(b"\n", end)), open_points(PCD)
    )


@pytest.mark.parametrize("start", [b"# made by hand\n", b"\xef\xbb\xbf", b"\n# one\n# two\n", b"# and more\n" * 99])
def test_what_comes_before_a_mesh(start):
    np.testing.assert_array_equal(open_points(start + OFF), open_points(OFF))


def test_whole_numbers_in_either_order_of_bytes():
    rows = np.zeros(2, [("x", ">f4"), ("y", ">f4"), ("z", ">f4"), ("red", ">u2")])
    rows["red"] = [65535, 0]
    fields = "".join(f"property {'ushort' if name == 'red' else 'float'} {name}\n" for name in rows.dtype.names)
    header = f"ply\nformat binary_big_endian 1.0\nelement vertex 2\n{fields}end_header\n"
    np.testing.assert_array_equal(open_points(header.encode() + rows.tobytes())[:, 3], [1, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PCD.removesuffix(b"1 nan 0 2\n"), "it has 1 points and says that it has 2"),
        (PCD.replace(b"WIDTH 2\n", b""), "cannot be read as a cloud of points: [^\\n]*$"),
        (OFF.replace(b"4 4 0", b"4 nan 0"), "corners of its faces are NaN or infinite"),
        (PLY[: PLY.index(b"0 0 0 0.5")].replace(b"vertex 3", b"vertex 0"), "it has no vertices"),
    ],
)
def test_files_that_lack_something(content, message):
    with pytest.raises(ValueError, match=message):
        open_points(content, num_points=8)


def ply_of(names, rows, faces=""):
    """Bytes of a .ply file of text, with a field for each name."""
    fields = "".join(f"property float {name}\n" for name in names)
    head = f"ply\nformat ascii 1.0\nelement vertex {len(rows)}\n{fields}"
    head += f"element face {len(faces.splitlines())}\nproperty list uchar int vertex_indices\n" if faces else ""
    lines = "".join(" ".join(map(repr, map(float, row))) + "\n" for row in rows)
    return f"{head}end_header\n{lines}{faces}".encode()


@pytest.mark.parametrize(
    ("num_axes", "feature_names", "columns"),
    [(4, [], [0, 1, 2, 3]), (4, None, [0, 1, 2, 3, 4]), (4, ["t"], [0, 1, 2, 4, 3]), (5, [], [0, 1, 2, 3, 4])],
)
def test_more_than_three_coordinates(num_axes, feature_names, columns):
    """The fields that follow x, y and z, and are no features."""
    rows = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    found = open_points(ply_of(["x", "y", "z", "t", "u"], rows), num_axes, feature_names)
    np.testing.assert_array_equal(found, rows[:, columns])


@pytest.mark.parametrize(
    ("content", "num_axes", "message"),
    [
        (ply_of("xyzt", np.eye(4)), 5, "it has fields x, y, z, t: expected num_axes=5 coordinates among them"),
        (ply_of("xy", np.eye(2)), 2, "it has no z, without which trimesh reads no .ply file: give it as .npy"),
        (b"OFF\n1 0 0\n1 2 3\n", 4, "it holds points in three dimensions: give those of num_axes=4 as .npy"),
        (ply_of("xyzt", np.eye(4)[:3], "3 0 1 2\n"), 4, "points on its faces have three coordinates"),
    ],
)
def test_files_without_so_many_coordinates(content, num_axes, message):
    with pytest.raises(ValueError, match=message):
        open_points(content, num_axes, [], 3)


def test_binary_ply(cloud):
    import trimesh

    content = trimesh.PointCloud(cloud).export(file_type="ply")
    np.testing.assert_allclose(open_points(content), cloud, rtol=1e-6)


def test_meshes_are_sampled_evenly_or_give_their_vertices():
    np.testing.assert_array_equal(open_points(OFF), [[0, 0, 0], [4, 0, 0], [0, 4, 0], [4, 4, 0]])
    surface = open_points(OFF, num_points=2000)
    assert surface.shape == (2000, 3) and (surface.min() >= 0) and (surface.max() <= 4)
    np.testing.assert_allclose(surface[:, :2].mean(axis=0), [2, 2], atol=0.1)
    np.testing.assert_array_equal(open_points(OFF, num_points=2000), surface)
    processor = PerceiverStudyPointCloudProcessor(num_points=30)
    assert processor(OFF)["points"].shape == (1, 30, 3)


@pytest.mark.slow
def test_millions_of_points_take_a_few_copies_of_memory():
    given = np.random.default_rng(0).random((2_000_000, 3), np.float32)
    for settings in ({"num_points": 1024}, {"num_points": 1024, "sampling": "farthest"}, {}):
        tracemalloc.start()
        points = PerceiverStudyPointCloudProcessor(**settings)(given)["points"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert points.shape[1] == settings.get("num_points", 2_000_000)
        assert peak < 12 * given.nbytes


def test_order_and_padding_change_nothing(cloud):
    model = build_model(torch.float64, num_channels=2)
    features = np.random.default_rng(1).random((40, 2))
    points, features = torch.from_numpy(cloud - cloud.mean(axis=0))[None] / 8, torch.from_numpy(features)[None]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(points=points, point_features=features).logits
        permuted = model(points=points[:, order], point_features=features[:, order]).logits
        rubbish = torch.full((1, 9, 1), torch.nan, dtype=torch.float64)
        padded = model(
            points=torch.cat([points, rubbish.expand(1, 9, 3)], dim=1),
            point_features=torch.cat([features, rubbish.expand(1, 9, 2)], dim=1),
            attention_mask=torch.arange(49)[None] < 40,
        ).logits
    torch.testing.assert_close(permuted, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(padded, expected, atol=1e-12, rtol=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("points") / "checkpoint"
    model = build_model(num_channels=0, num_labels=3)
    model.save_pretrained(folder)
    PerceiverStudyPointCloudProcessor(num_points=30).save_pretrained(folder)
    return folder, model


def test_it_is_saved_and_loaded(checkpoint):
    folder, _ = checkpoint
    loaded = PerceiverStudyPointCloudProcessor.from_pretrained(folder)
    expected = PerceiverStudyPointCloudProcessor(num_points=30).to_dict()
    assert {name: value for name, value in loaded.to_dict().items() if name != "auto_map"} == expected
    saved = json.loads((folder / "preprocessor_config.json").read_text())
    assert list(saved["auto_map"]) == ["AutoFeatureExtractor"]


@pytest.mark.slow
def test_strangers_load_processor_and_pipeline(checkpoint, cloud, tmp_path):
    folder, model = checkpoint
    np.save(tmp_path / "cloud.npy", cloud)
    script = f"""
import sys, json, torch
sys.modules["modeling_perceiver_study"] = None
from transformers import AutoFeatureExtractor, AutoModel, pipeline
folder, path = {str(folder)!r}, {str(tmp_path / "cloud.npy")!r}
processor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
assert processor(path)["points"].shape == (1, 30, 3)
assert not hasattr(AutoModel.from_pretrained(folder, trust_remote_code=True), "classifier")
classify = pipeline("point-cloud-classification", model=folder, trust_remote_code=True, dtype=torch.float64)
assert classify.model.dtype == torch.float64
print(json.dumps(classify(path, top_k=None)))
"""
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = python("-c", script, folder=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        inputs = PerceiverStudyPointCloudProcessor(num_points=30)(cloud)
        expected = model(**inputs).logits[0].softmax(dim=-1)
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 3
    for entry in found:
        assert entry["score"] == pytest.approx(expected[int(entry["label"][-1])].item(), abs=1e-5)


def test_pipeline(checkpoint, cloud, tmp_path):
    _, model = checkpoint
    processor = PerceiverStudyPointCloudProcessor(num_points=30)
    classify = PerceiverStudyPointCloudClassificationPipeline(model, feature_extractor=processor, device="cpu")
    np.save(tmp_path / "cloud.npy", cloud)
    content = (tmp_path / "cloud.npy").read_bytes()
    clouds = [cloud, cloud[:4], str(tmp_path / "cloud.npy"), content, cloud.tolist()]
    found = classify(clouds, batch_size=2, top_k=2)
    with torch.no_grad():
        expected = model(**processor(clouds)).logits.softmax(dim=-1)
    for entries, scores in zip(found, expected, strict=True):
        assert [entry["score"] for entry in entries] == pytest.approx(scores.topk(2).values.tolist(), abs=1e-5)
    assert classify(np.stack([cloud, cloud])) == [classify(cloud)] * 2
    assert len(classify(cloud)) == 3
    raw = classify(cloud, function_to_apply="none", top_k=1)[0]["score"]
    assert raw == pytest.approx(model(**processor(cloud)).logits.max().item(), abs=1e-5)
    with pytest.raises(ValueError, match="function_to_apply='tanh': expected"):
        classify(cloud, function_to_apply="tanh")


def test_bytes_like_objects_are_read_from_memory(cloud):
    buffer = io.BytesIO()
    np.save(buffer, cloud)
    points = PerceiverStudyPointCloudProcessor()([buffer.getvalue()])["points"]
    assert points.shape == (1, 40, 3)


def test_forms_of_a_file(checkpoint, cloud, tmp_path, monkeypatch):
    _, model = checkpoint
    np.save(tmp_path / "cloud.npy", cloud)
    content = (tmp_path / "cloud.npy").read_bytes()
    monkeypatch.setenv("HOME", str(tmp_path))
    processor = PerceiverStudyPointCloudProcessor(num_points=30)
    several = PerceiverStudyProcessor({"cloud": processor})
    classify = PerceiverStudyPointCloudClassificationPipeline(model, feature_extractor=processor, device="cpu")
    expected, answers = processor(cloud)["points"], classify(cloud)
    forms = [content, bytearray(content), memoryview(content), io.BytesIO(content), {"bytes": content, "path": None}]
    with serving(tmp_path) as server:
        for form in [*forms, "~/cloud.npy", {"path": "~/cloud.npy"}, f"{server}/cloud.npy"]:
            for given in (form, [form]):
                torch.testing.assert_close(processor(given)["points"], expected)
            for sample in [{"cloud": form}] if isinstance(form, dict) else [{"cloud": form}, form]:
                torch.testing.assert_close(several(sample)["points"], expected)
            assert classify(form) == classify([form])[0] == answers


def test_the_pipeline_keeps_the_model_that_it_is_given(checkpoint, cloud):
    """Changed weights, attention and names of classes; the folder adds the rest of the classifier."""
    folder, _ = checkpoint
    bare = PerceiverStudyModel.from_pretrained(folder, attn_implementation="eager")
    bare.config.id2label = {0: "chair", 1: "table", 2: "bed"}
    bare.config.problem_type = "multi_label_classification"
    with torch.no_grad():
        bare.latents.weight.mul_(2)
    processor = PerceiverStudyPointCloudProcessor(num_points=30)
    classify = PerceiverStudyPointCloudClassificationPipeline(bare, feature_extractor=processor, device="cpu")
    assert classify.model.perceiver is bare and classify.model.config._attn_implementation == "eager"
    expected = PerceiverStudyForPointCloudClassification.from_pretrained(folder)
    with torch.no_grad():
        expected.perceiver.latents.weight.mul_(2)
        scores = expected(**processor(cloud)).logits[0].sigmoid()
    found = {entry["label"]: entry["score"] for entry in classify(cloud)}
    assert found == pytest.approx(dict(zip(["chair", "table", "bed"], scores.tolist(), strict=True)), abs=1e-5)


def test_farthest_points_of_few_places_are_all_there():
    """Once each place is taken, others at the same places follow, each point once."""
    given = np.zeros((10, 4))
    given[0, :3], given[:, 3] = 1, np.arange(10)
    settings = {"num_features": 1, "sampling": "farthest"}
    taken = PerceiverStudyPointCloudProcessor(num_points=6, **settings)(given)["point_features"][0, :, 0].tolist()
    assert len({*taken}) == 6 and 0 in taken
    again = PerceiverStudyPointCloudProcessor(num_points=6, **settings)(given[::-1].copy())["point_features"]
    assert again[0, :, 0].tolist() == taken


def test_farthest_points_begin_far_from_the_mean():
    line = np.array([*range(10, 18), 1.0])[:, None]
    settings = {"num_axes": 1, "num_points": 1, "center": None, "scale": None}
    assert PerceiverStudyPointCloudProcessor(sampling="farthest", **settings)(line)["points"].item() == 1


@pytest.mark.parametrize("given", [[1e300, 0, 0, 0], [0, 0, 0, -1e300]])
def test_numbers_beyond_float32(given):
    processor = PerceiverStudyPointCloudProcessor(num_features=1, center=None, scale=None)
    with pytest.raises(ValueError, match=r"becomes numbers beyond float32: expected at most 3.4e\+38"):
        processor(np.array([given, [1, 2, 3, 4]]))


def test_coordinates_are_no_shares():
    """Whole numbers of 8 bits are colours only where they are no coordinates."""
    rows = np.array([(255, 7.0, 0.5, 255)], [("x", "u1"), ("y", "<f4"), ("z", "<f4"), ("red", "u1")])
    kinds = ("uchar x", "float y", "float z", "uchar red")
    fields = "".join(f"property {kind}\n" for kind in kinds)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex 1\n{fields}end_header\n"
    np.testing.assert_array_equal(open_points(header.encode() + rows.tobytes()), [[255, 7, 0.5, 1]])


def test_a_cloud_as_lists_is_one_cloud(checkpoint, cloud):
    processor = PerceiverStudyPointCloudProcessor(num_points=30)
    classify = PerceiverStudyPointCloudClassificationPipeline(checkpoint[1], feature_extractor=processor, device="cpu")
    assert classify(cloud.tolist()) == classify(cloud)
    assert classify([cloud.tolist(), cloud]) == [classify(cloud)] * 2
