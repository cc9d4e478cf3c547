"""Position features that a caller gives: rounded ones, those of other bands, and a caller's own."""

import re

import pytest
import torch

from modeling_perceiver_study import PerceiverStudyImageProcessor
from modeling_perceiver_study.position import find_max_frequency, fourier_axis_features
from tests.models import needs_compiler, pixels, small_model

HALVES = [torch.bfloat16, torch.float16]
GRIDS = {
    "image": {"image_size": [7, 5]},
    "waveform": {"num_axes": 1, "image_size": 33},
    "video": {"num_axes": 3, "image_size": [3, 4, 5]},
    "no coordinates": {"concat_positions": False},
    "large": {"image_size": [64, 48], "num_frequency_bands": 16},
    "stem": {"stem_type": "conv", "stem_channels": 4, "image_size": 40},
}


def features_of(config, max_frequencies=None, grid=None) -> torch.Tensor:
    """`(1, S_1 + .. + S_A, F)` in float32, of the config's bands unless `max_frequencies` says otherwise."""
    axes = fourier_axis_features(
        grid or config.attended_grid,
        config.num_frequency_bands,
        max_frequencies or config.axis_max_frequencies,
        config.concat_positions,
    )
    return torch.cat(axes)[None]


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("fields", GRIDS.values(), ids=GRIDS)
def test_rounded_features_are_taken_for_the_models_own(fields, dtype, samples):
    """To the last bit, in a model of the same 16 bits, as pipelines give them to it, and in a float32 model."""
    for model_dtype in (dtype, torch.float32):
        model = small_model(**fields).to(model_dtype)
        images = pixels(model.config).to(model_dtype)
        exact = features_of(model.config).expand(samples, -1, -1)
        expected, actual = (model(images, position_features=some).logits for some in (exact, exact.to(dtype)))
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_features_of_the_callers_own_making_are_used_as_they_are(dtype):
    model = small_model().to(dtype)
    images, features = pixels(model.config).to(dtype), features_of(model.config)
    rows, columns = features.split(model.config.grid, dim=1)
    mirrored = torch.cat([rows, columns.flip(1)], dim=1).to(dtype)
    noise = torch.randn(3, 12, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    for own in (mirrored, noise):
        on_grid = model.perceiver.inputs(images, own, None, dtype)
        given = torch.cat([on_grid.rows, on_grid.columns], dim=1)
        torch.testing.assert_close(given, own.float(), rtol=torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_features_that_learn_are_kept_and_get_gradients(dtype):
    """They may begin as the model's own."""
    model = small_model().to(dtype)
    features = features_of(model.config).to(dtype).requires_grad_()
    assert torch.equal(
        model.perceiver.inputs(pixels(model.config), features, None, dtype).rows[0], features[0, :7].float()
    )
    model(pixels(model.config).to(dtype), position_features=features).logits.sum().backward()
    assert (features.grad.float().abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("fields", "other", "message"),
    [
        (
            {"image_size": [64, 48]},
            [32.0, 16.0],
            "axis 1 are Fourier features up to frequency 16, and the model's go up to 24",
        ),
        (
            {"image_size": 64},
            [16.0, 16.0],
            "up to frequency 16, and the model's go up to 32 (max_frequencies=[32.0, 32.0], image_size=64)",
        ),
        (
            {"image_size": 32, "max_frequencies": 8},
            [16.0] * 2,
            "up to frequency 16, and the model's go up to 8 (max_frequencies=8, image_size=32)",
        ),
        ({"image_size": 32, "max_frequencies": [8, 9.5]}, [8.0, 9.0], "axis 1 are Fourier features up to frequency 9"),
        ({"image_size": 32, "concat_positions": False}, [12.0] * 2, "up to frequency 12, and the model's go up to 16"),
        ({"image_size": 32, "num_frequency_bands": 2}, [12.0] * 2, "up to frequency 12, and the model's go up to 16"),
        ({"image_size": 32, "num_frequency_bands": 16}, [1.0] * 2, "up to frequency 1, and the model's go up to 16"),
        ({"num_axes": 1, "image_size": 2000}, [500.0], "up to frequency 500, and the model's go up to 1000"),
    ],
)
def test_features_of_other_bands_are_an_error_that_names_both(fields, other, message, dtype, samples):
    """In 16 bits the frequency is found to within a hundredth."""
    model = small_model(**fields)
    images = pixels(model.config)
    features = features_of(model.config, other).expand(samples, -1, -1).to(dtype)
    if samples > 1:  # one sample among others is enough
        features = torch.cat([features_of(model.config).to(dtype).expand(samples - 1, -1, -1), features[-1:]])
    with pytest.raises(ValueError, match="do_fourier_encode=False") as caught:
        model(images, position_features=features)
    stated = re.search(r"up to frequency ([\d.]+)", str(caught.value))[1]
    wanted = re.search(r"up to frequency ([\d.]+)", message)[1]
    assert float(stated) == pytest.approx(float(wanted), rel=0.01 if dtype in HALVES else 1e-3)
    assert message.replace(f"frequency {wanted}", f"frequency {stated}") in str(caught.value)


def test_a_processor_of_another_size_is_an_error():
    """As when a model is loaded with another `image_size` than its processor was made for."""
    model = small_model(image_size=64, num_frequency_bands=16)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    processor = PerceiverStudyImageProcessor(size=64, crop_size=64, max_frequencies=16)
    with pytest.raises(ValueError, match=r"frequency 16, and the model's go up to 32 .*image_size=64"):
        model(**processor(image))
    right = PerceiverStudyImageProcessor(size=64, crop_size=64, max_frequencies=32)
    for call in (right(image), processor(image, do_fourier_encode=False)):
        assert model(**call).logits.shape == (1, 5)


def test_another_number_of_bands_is_an_error_that_names_both():
    model = small_model()
    for features, said in (
        (13, "num_frequency_bands=6 and concat_positions=True"),
        (8, "4 and concat_positions=False"),
    ):
        with pytest.raises(ValueError, match=re.escape("num_frequency_bands=4 and concat_positions=True")) as caught:
            model(pixels(model.config), position_features=torch.zeros(1, 12, features))
        assert said in str(caught.value)
    with pytest.raises(ValueError, match="made for these pixel_values"):
        model(pixels(model.config), position_features=torch.zeros(1, 13, 9))


def of_their_own(config) -> dict[str, torch.Tensor]:
    """Features that are no Fourier features of the whole grid at equally spaced bands."""
    grid, bands = config.grid, config.num_frequency_bands
    own = features_of(config)
    rows, columns = own.split(grid, dim=1)
    larger = fourier_axis_features([2 * size for size in grid], bands, [2.0 * size for size in grid])
    coordinate = torch.cat([torch.linspace(-1, 1, size) for size in grid])[:, None]
    angles = torch.pi * coordinate * 2.0 ** torch.arange(bands)
    return {
        "noise": torch.randn(1, sum(grid), own.shape[-1], generator=torch.Generator().manual_seed(0)),
        "nothing": torch.zeros_like(own),
        "mirrored": torch.cat([rows, columns.flip(1)], dim=1),
        "shuffled": torch.cat([rows[:, torch.randperm(grid[0])], columns], dim=1),
        "crops": torch.cat([part[:size] for part, size in zip(larger, grid, strict=True)])[None],
        "octaves": torch.cat([coordinate, angles.sin(), angles.cos()], dim=-1)[None],
        "noisy": own + 0.3 * torch.randn(own.shape, generator=torch.Generator().manual_seed(1)),
        "not a number": torch.full_like(own, torch.nan),
    }


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize("kind", of_their_own(small_model(image_size=[9, 12]).config))
def test_features_of_their_own_are_accepted(kind, dtype):
    model = small_model(image_size=[9, 12])
    features = of_their_own(model.config)[kind].to(dtype)
    assert model(pixels(model.config), position_features=features).logits.shape == (3, 5)


@pytest.mark.parametrize("concat_positions", [True, False])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("size", "num_bands", "max_frequency"),
    [(3, 2, 1.5), (32, 16, 16.0), (224, 64, 112.0), (224, 64, 5.5), (50, 3, 0.5)],
)
def test_the_highest_frequency_is_found(size, num_bands, max_frequency, dtype, concat_positions):
    (features,) = fourier_axis_features([size], num_bands, [max_frequency], concat_positions, dtype)
    found = find_max_frequency(features)
    assert found == pytest.approx(max_frequency, abs=0.03 if dtype in HALVES else 1e-3)


@pytest.mark.parametrize("features", [torch.zeros(2, 9), torch.zeros(5, 3), torch.zeros(5, 9), torch.zeros(0, 9)])
def test_none_is_found_where_there_is_none(features):
    assert find_max_frequency(features) is None


@needs_compiler
@pytest.mark.filterwarnings("default")  # the compiler and the tracer have deprecation warnings of their own
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("program", ["compiled", "exported", "traced"])
@pytest.mark.slow
def test_programs_take_what_they_are_given(program, dtype):
    """No number decides where they go: rounded features become exact in them too, but other bands are no error."""
    model = small_model(num_blocks=1, num_cross_attends=1, num_self_attends_per_block=1, return_dict=False)
    images, exact = pixels(model.config), features_of(model.config).expand(3, -1, -1).contiguous()
    call = (images, exact.to(dtype))
    if program == "compiled":
        function = torch.compile(model, fullgraph=True, backend="aot_eager")
    elif program == "exported":
        function = torch.export.export(model, call).module()
    else:
        function = torch.jit.trace(model, call)
    with torch.no_grad():
        torch.testing.assert_close(function(*call)[0], model(images, exact)[0], rtol=0, atol=1e-5)
        other = features_of(model.config, [1.5, 1.5]).expand(3, -1, -1).to(dtype)
        moved = (function(images, other)[0] - function(*call)[0]).abs().max()
    assert moved > 1e-2


def test_on_the_meta_device():
    model = small_model().to("meta")
    features = features_of(model.config, [1.5, 1.5]).to("meta")
    assert model(pixels(model.config).to("meta"), position_features=features).logits.shape == (3, 5)
