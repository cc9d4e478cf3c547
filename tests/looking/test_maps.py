import numpy as np
import pytest
import torch
from PIL import Image

import attention_maps
from lab.data.images import seen_pixels
from lab.errors import UserError
from lab.looking.image_view import ImageView
from lab.looking.maps import cross_attention_maps, draw_attention_maps, draw_maps_on, map_logits
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.study.training import train_small
from modeling_perceiver_study import PerceiverStudyImageProcessor
from tests.checkpoints import save_checkpoint
from tests.fresh_processes import python
from tests.paths import SCRIPTS
from tests.small_data import coloured_images, fresh_accelerate
from tests.space import SPACE, copy_space

THREE_CROSS_ATTENDS = (
    "model.num_blocks=3",
    "model.num_cross_attends=3",
    "model.num_cross_attention_heads=2",
    "model.num_latents=7",
    "model.cross_attention_shape_for_attention=q",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attention_maps") / "checkpoint"
    return folder, save_checkpoint(folder, *THREE_CROSS_ATTENDS), PerceiverStudyImageProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def image():
    """Of another size than the model's."""
    return coloured_images(1, seed=0, size=12)[0][0]


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def labels(figure):
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def shown(figure):
    """Arrays of all pictures, line by line."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def test_a_line_for_each_head_with_the_true_weights(checkpoint, image):
    _, model, processor = checkpoint
    figure = draw_attention_maps(model, processor, image, latents=[4, 1])
    assert titles(figure) == ["image", "all latents", "latent 4", "latent 1"]
    assert labels(figure) == [f"cross-attend {number}\nhead {head}" for number in (1, 2, 3) for head in (1, 2)]
    maps = cross_attention_maps(model, **processor(image))
    pictures = shown(figure)
    for line, (number, head) in enumerate((number, head) for number in range(3) for head in range(2)):
        expected = maps[number][0, head]
        seen, mean, fourth, first = pictures[4 * line : 4 * line + 4]
        assert seen.shape == (8, 8, 3)
        np.testing.assert_allclose(mean, expected.mean(dim=0), rtol=1e-6)
        np.testing.assert_array_equal(fourth, expected[3])
        np.testing.assert_array_equal(first, expected[0])


def test_words_numbers_and_doubles_choose_cross_attends(checkpoint, image):
    _, model, processor = checkpoint
    figure = draw_attention_maps(model, processor, image, ["last", "2", 1, "second"], heads=[2])
    assert labels(figure) == [f"cross-attend {number}\nhead 2" for number in (3, 2, 1)]
    assert titles(figure)[2:] == [f"latent {number}" for number in (1, 2, 3, 4, 5, 7)]


def test_fewer_cross_attends_than_asked_for_by_default(tmp_path, image):
    model = save_checkpoint(tmp_path)
    figure = draw_attention_maps(model, PerceiverStudyImageProcessor.from_pretrained(tmp_path), image)
    assert labels(figure) == ["cross-attend 1"]


def test_logits_are_what_the_softmax_was_made_of():
    logits = torch.randn(2, 3, 5, 4, 6, dtype=torch.float64)
    maps = logits.flatten(-2).softmax(dim=-1).view_as(logits)
    torch.testing.assert_close(map_logits(maps), logits - logits.mean(dim=(-2, -1), keepdim=True))
    assert map_logits(torch.eye(2)).isfinite().all(), "weights that underflowed"


def test_logits_are_drawn_from_lowest_to_largest(checkpoint, image):
    _, model, processor = checkpoint
    figure = draw_attention_maps(model, processor, image, ["first"], [1], [3], logits=True)
    expected = map_logits(cross_attention_maps(model, **processor(image))[0][0, 0])
    np.testing.assert_allclose(shown(figure)[2], expected[2])
    drawn = figure.axes[2].images[0]
    assert drawn.get_clim() == (pytest.approx(expected[2].min()), pytest.approx(expected[2].max()))


def test_what_the_model_sees(checkpoint, image):
    """Resized, and undone, its normalisation."""
    _, _, processor = checkpoint
    pixels = processor(image)["pixel_values"][0] * 0.25 + 0.5
    assert np.abs(seen_pixels(processor, image) - 255 * pixels.numpy()).max() <= 1


def test_command_line(checkpoint, image, tmp_path, capsys):
    folder = checkpoint[0]
    image.save(tmp_path / "image.png")
    arguments = [str(folder), str(tmp_path / "image.png"), "--cross_attends", "first", "3", "--latents", "2"]
    attention_maps.main([*arguments, "-o", str(tmp_path / "maps.png")])
    assert capsys.readouterr().out == f"{tmp_path / 'maps.png'}\n"
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.size == (450, 640)


def test_a_name_without_an_ending_gets_one(checkpoint, image, tmp_path, capsys):
    image.save(tmp_path / "image.png")
    options = ["--latents", "2", "--heads", "1", "--cross_attends", "1", "-o", str(tmp_path / "maps")]
    attention_maps.main([str(checkpoint[0]), str(tmp_path / "image.png"), *options])
    assert capsys.readouterr().out == f"{tmp_path / 'maps.png'}\n"
    assert (tmp_path / "maps.png").is_file()


def test_a_recipe_is_drawn_as_training_begins_with_it(image, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(DEFAULT_RECIPE.read_text().replace("seed: 0", "seed: 3"))
    begun = {}

    def watch(step: int, model: torch.nn.Module):
        if step == 0:
            begun.update({name: weights.clone() for name, weights in model.state_dict().items()})

    fresh_accelerate()
    train_small(load_recipe(path, ["optimization.epochs=1", "data.train_samples=64"]), watch=watch)
    fresh_accelerate()
    model, *_ = attention_maps.load_untrained(str(path))
    assert not model.training
    assert all(torch.equal(begun.pop(name), weights) for name, weights in model.state_dict().items()) and not begun
    image.save(tmp_path / "image.png")
    attention_maps.main([str(path), str(tmp_path / "image.png"), "-o", str(tmp_path / "maps.png")])
    assert (tmp_path / "maps.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cross_attends", "third"], r"^cross-attend third: expected first, second, last or a number from 1 to 3$"),
        (["--heads", "0"], r"^head 0: expected a number from 1 to 2$"),
        (["--latents", "8"], r"^latent 8: expected a number from 1 to 7$"),
        (["-o", "maps.nonsense"], r"^--output maps.nonsense cannot be written: "),
        (["-o", "/nowhere/maps.png"], r"^--output /nowhere/maps.png cannot be written: "),
        (["-o", "/tmp"], r"^--output /tmp cannot be written: it is a folder"),
    ],
)
def test_what_cannot_be_drawn(checkpoint, image, tmp_path, options, message):
    image.save(tmp_path / "image.png")
    with pytest.raises(UserError, match=message):
        attention_maps.main([str(checkpoint[0]), str(tmp_path / "image.png"), *options])


@pytest.mark.slow
def test_a_page_has_all_that_it_imports(tmp_path):
    """Of the files that docs/hub.md names for a Space; Gradio itself is not among what the tests need."""
    copy_space(tmp_path)
    there = "import sys, lab.looking.maps, lab.judging.checkpoints; print('datasets' in sys.modules)"
    done = python("-c", there, folder=tmp_path)
    assert done.stdout.strip() == "False", done.stderr
    page = (SCRIPTS.parent / "docs" / "hub.md").read_text()
    assert all(f"`{name}`" in page for name in SPACE)


def test_maps_of_one_cross_attend_are_its_own(checkpoint, image):
    _, model, processor = checkpoint
    expected = cross_attention_maps(model, **processor(image))[1][0].mean(dim=0)
    _, mean, first, *_ = shown(draw_maps_on([image], model, processor, ImageView, 2))
    np.testing.assert_allclose(mean, expected.mean(dim=0), rtol=1e-5)
    np.testing.assert_allclose(first, expected[0], rtol=1e-5)
