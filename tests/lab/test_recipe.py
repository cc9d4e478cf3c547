import dataclasses
import re

import pytest
import torch

from lab import recipe
from lab.errors import UserError, run_command
from lab.recipe import DEFAULT_RECIPE, Recipe, differences, flatten, load_recipe
from lab.tasks import build_task
from tests.paths import SCRIPTS


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "minimal.yaml"
    path.write_text("data:\n  name: digits\noptimization:\n  epochs: 3\n")
    return path


def test_overrides_win_over_the_file_and_the_file_over_defaults(minimal):
    loaded = load_recipe(minimal, ["optimization.learning_rate=2e-3", "model.image_size=[8,4]", "output_dir=here"])
    assert loaded.optimization.epochs == 3
    assert loaded.optimization.learning_rate == 0.002
    assert loaded.optimization.batch_size == Recipe().optimization.batch_size
    assert loaded.model == {"image_size": [8, 4]}
    assert loaded.output_dir == "here"
    assert load_recipe(minimal, ["optimization.epochs=5"]).optimization.epochs == 5


def test_a_recipe_survives_being_written_and_read(tmp_path):
    loaded = load_recipe(DEFAULT_RECIPE, ["optimization.max_gradient_norm=null", "data.path=/some/where"])
    (tmp_path / "again.yaml").write_text(recipe.recipe_to_yaml(loaded))
    assert load_recipe(tmp_path / "again.yaml") == loaded


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("sed=1", "seed"),
        ("learning_rate=1", "optimization.learning_rate"),
        ("optimization.learning_rat=1", "optimization.learning_rate"),
        ("optimisation.epochs=1", "optimization.epochs"),
        ("model.num_latent=1", "model.num_latents"),
        ("data.training_samples=1", "data.train_samples"),
    ],
)
def test_an_unknown_key_names_the_nearest(minimal, given, nearest):
    with pytest.raises(UserError, match=f"^unknown key .* in {given}; the nearest is '{nearest}'$"):
        load_recipe(minimal, [given])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("image_processor.image_means=1", "the nearest is 'image_processor.image_mean'"),
        ("image_processor.num_frequency_bands=1", "the nearest is 'model.num_frequency_bands'"),
        ("augmentation.crop_paddin=1", "the nearest is 'augmentation.crop_padding'"),
        ("augmentation.crop_padding=much", "augmentation.crop_padding: .*'much'.*Integer"),
        ("augmentation.random_erasing=1.5", "augmentation.random_erasing=1.5: expected a number from 0 to 1"),
        ("augmentation.mixup_alpha=-1", "expected a number of at least 0"),
        ("task=image-clasification", "task=image-clasification: expected one of image-classification"),
    ],
)
def test_sections_of_a_task_are_checked_too(given, message):
    with pytest.raises(UserError, match=message) as caught:
        build_task(load_recipe(DEFAULT_RECIPE, [given]))
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_a_file_names_the_file(minimal):
    minimal.write_text("data:\n  nam: digits\n")
    with pytest.raises(UserError, match=r"unknown key 'data.nam' in .*minimal.yaml; the nearest is 'data.name'"):
        load_recipe(minimal)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("optimization.epochs=many", "optimization.epochs in .*'many'.*Integer"),
        ("optimization.epochs=2.5", "optimization.epochs in .*2.5.*Integer"),
        ("optimization.epochs=null", "optimization.epochs in "),
        ("optimization=5", "in optimization=5"),
        ("model=5", "model in model=5"),
        ("optimization.epochs=0", "optimization.epochs=0: expected a number of at least 1"),
        ("optimization.label_smoothing=1.5", "expected a number from 0 to 1"),
        ("optimization.learning_rate=nan", "optimization.learning_rate=nan"),
        ("optimization.mixed_precision=fp8", "expected one of auto, no, bf16, fp16"),
        ("optimization.matmul_precision=tf32", "expected one of highest, high, medium"),
        ("optimization.gradient_accumulation_steps=3", "does not divide optimization.batch_size=128"),
        ("data.name=null", "give data.name"),
        ("epochs", "overrides look like"),
        ("=3", "overrides look like"),
        ("seed=[", "cannot understand"),
        (f"seed={2**32}", f"seed={2**32}: expected a number from 0 to {2**32 - 1}"),
        ("optimization.freeze=perceiver.*", r"expected a list, such as \[a, b\]"),
        ("data.title=of ${oc.env:HOME}", r"has \$\{ in a text"),
        ("data.columns={label: ['${oc.env:HOME}']}", r"has \$\{ in a text"),
    ],
)
def test_a_wrong_value_is_one_clear_line(minimal, given, message):
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(minimal, [given])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("- 1\n- 2\n", "is not a recipe"), ("a: [", "cannot be read as YAML"), ("\x00", "cannot be read as YAML")],
)
def test_a_file_that_is_no_recipe(tmp_path, content, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_recipe(path)


def test_a_missing_file_lists_the_presets(tmp_path):
    with pytest.raises(UserError, match=r"no recipe at .*absent.yaml; there are .*cifar10-study"):
        load_recipe(tmp_path / "absent.yaml")


def test_a_section_may_be_empty(minimal):
    minimal.write_text("data:\n  name: digits\nmodel:\noptimization:\n  # epochs: 3\n")
    assert load_recipe(minimal).optimization == Recipe().optimization


def test_no_is_a_precision_and_not_a_truth_value(minimal):
    minimal.write_text("data:\n  name: digits\noptimization:\n  mixed_precision: no\n")
    assert load_recipe(minimal).optimization.mixed_precision == "no"
    assert load_recipe(minimal, ["optimization.mixed_precision=no"]).optimization.mixed_precision == "no"


def test_command_line(minimal):
    loaded, options = recipe.parse_command_line(
        "", ["seed=4", "--config", str(minimal), "--resume", "data.split_seed=2", "--push_to_hub", "org/name"]
    )
    assert (loaded.seed, loaded.data.split_seed, loaded.optimization.epochs) == (4, 2, 3)
    assert (options.resume, options.accept_changes) == (True, False)
    assert (options.push_to_hub, options.private) == ("org/name", False)
    loaded, options = recipe.parse_command_line("", [])
    assert (loaded, options.resume, options.push_to_hub) == (load_recipe(DEFAULT_RECIPE), False, None)


def test_a_file_reads_no_variables(tmp_path):
    """A checkpoint of somebody else's has one."""
    (tmp_path / "recipe.yaml").write_text("data:\n  name: digits\n  title: ${oc.env:HOME}\n")
    with pytest.raises(UserError, match=r"recipe.yaml has \$\{ in a text"):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {"speaker": "a", "take": 1}),
        (["data.hold_out={}"], {}),
        (["data.hold_out={place: b}"], {"place": "b"}),
        (["data.hold_out.speaker=b"], {"speaker": "b", "take": 1}),
        (["data.hold_out={}", "data.hold_out={take: 2}"], {"take": 2}),
    ],
)
def test_conditions_on_rows_are_replaced(tmp_path, given, expected):
    """Rows would otherwise have to fit those of the recipe as well."""
    (tmp_path / "recipe.yaml").write_text("data: {name: digits, hold_out: {speaker: a, take: 1}}\n")
    assert load_recipe(tmp_path / "recipe.yaml", given).data.hold_out == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("model.tasks={lang: 2, mood: 2}", {"lang": 2, "mood": 2}),
        ("model.tasks.mood=3", {"language": 71, "mood": 3}),
        ("model.modalities={image: {image_size: 4}}", {"image": {"image_size": 4}}),
        ("model.modalities.image={image_size: 4}", {"image": {"image_size": 4}, "sound": {"patch_size": 2}}),
        ("model.modalities.image.image_size=4", {"image": {"image_size": 4, "stem": "x"}, "sound": {"patch_size": 2}}),
        ("data.columns={image: photo}", {"image": "photo"}),
        ("data.columns.image=photo", {"image": "photo", "label": "kind"}),
        ("image_processor.size={shortest_edge: 8}", {"shortest_edge": 8}),
        ("augmentation.modalities={sound: {noise: 1}}", {"sound": {"noise": 1}}),
    ],
)
def test_what_stands_in_braces_is_replaced(tmp_path, given, expected):
    """A task, a modality or a column of the recipe could not be taken away otherwise."""
    (tmp_path / "recipe.yaml").write_text(
        "data: {name: digits, columns: {image: img, label: kind}}\n"
        "image_processor: {size: {height: 8, width: 8}}\n"
        "augmentation: {modalities: {image: {crop_padding: 1}}}\n"
        "model: {tasks: {language: 71, mood: 2}, modalities: "
        "{image: {image_size: 8, stem: x}, sound: {patch_size: 2}}}\n",
        encoding="utf-8",
    )
    flat = flatten(load_recipe(tmp_path / "recipe.yaml", [given]))
    assert flat[".".join(given.partition("=")[0].split(".")[:2])] == expected


def test_sections_are_added_to():
    before = load_recipe(DEFAULT_RECIPE)
    after = load_recipe(DEFAULT_RECIPE, ["model={num_latents: 3}", "optimization={epochs: 1}"])
    assert after.model == before.model | {"num_latents": 3}
    assert after.optimization == dataclasses.replace(before.optimization, epochs=1)


def test_what_is_to_be_empty_is_empty(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "data: {name: digits, columns: {label: x}}\nmodel: {tasks: {a: 2}}\naugmentation: {crop_padding: 1}\n"
    )
    given = ["data.columns={}", "model.tasks={}", "augmentation={}", "optimization={}"]
    recipe = load_recipe(tmp_path / "recipe.yaml", given)
    assert (recipe.data.columns, recipe.model, recipe.augmentation) == ({}, {"tasks": {}}, {})
    assert recipe.optimization.epochs == 10 and load_recipe(None, ["data.name=digits", "model={}"]).model == {}


@pytest.mark.parametrize(
    "given", ["model.num_latents=0", "model.d_latents=abc", "model.num_axes=1", "model.num_labels=three"]
)
def test_a_model_that_cannot_be_names_the_field(given):
    with pytest.raises(UserError, match=re.escape(given.partition("=")[0].rpartition(".")[2])) as caught:
        build_task(load_recipe(DEFAULT_RECIPE, [given]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("colours", [True, False])
@pytest.mark.parametrize("name", ["image_mean", "image_std"])
def test_a_number_for_each_channel(name, colours):
    changes = [f"image_processor.{name}=[0.4, 0.5, 0.6]", f"image_processor.do_convert_rgb={colours}"]
    message = rf"section image_processor: {name}=\(0.4, 0.5, 0.6\): expected a number, or one for each of the 1 "
    with pytest.raises(UserError, match=message):
        build_task(load_recipe(DEFAULT_RECIPE, changes))


def test_an_image_processor_that_cannot_be():
    loaded = load_recipe(DEFAULT_RECIPE, ["image_processor.size=big"])
    with pytest.raises(UserError, match=r"^section image_processor: .*big"):
        build_task(loaded)


@pytest.mark.parametrize("size", ["8", "[6,9]"])
def test_image_processor_and_model_agree(size):
    recipe = load_recipe(DEFAULT_RECIPE, [f"model.image_size={size}", "model.max_frequencies=3"])
    task, image = build_task(recipe), torch.zeros(1, 20, 20, dtype=torch.uint8)
    height, width = task.config.grid
    outputs = task.processor(image)
    assert outputs["pixel_values"].shape == (1, 1, height, width)
    assert outputs["position_features"].shape == (1, height + width, task.config.num_axis_features)
    recipe.model["position_encoding_type"] = "none"
    assert "position_features" not in build_task(recipe).processor(image)


def test_every_key_is_read_by_something():
    code = "".join(path.read_text() for path in SCRIPTS.rglob("*.py") if path.name != "recipe.py")
    for key in flatten(Recipe()):
        name = key.rpartition(".")[2]
        if name in ("name", "model", "image_processor", "augmentation"):
            continue  # too common a word to look for; tests of training use them
        assert re.search(rf"\.{name}\b", code), key


def test_differences_leave_out_what_does_not_change_the_result():
    old = load_recipe(DEFAULT_RECIPE, ["seed=1", "model.num_latents=8", "output_dir=a", "checkpoint.keep_last=1"])
    new = load_recipe(DEFAULT_RECIPE, ["seed=2", "model.num_latents=9", "output_dir=b", "checkpoint.keep_last=5"])
    assert differences(old, new) == {"seed": "seed: 1 -> 2", "model.num_latents": "model.num_latents: 8 -> 9"}
    assert differences(old, old) == {}


def test_user_errors_are_shown_without_traceback():
    def fail():
        raise UserError("it is too late")

    with pytest.raises(SystemExit, match=r"^error: it is too late$"):
        run_command(fail)


def test_every_section_is_documented():
    for field in dataclasses.fields(Recipe):
        if dataclasses.is_dataclass(field.default_factory):
            assert field.default_factory.__doc__
