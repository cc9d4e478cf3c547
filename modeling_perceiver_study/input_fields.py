"""Fields of the config that describe an input, the only one or each of several: which they are, and what they hold."""

from typing import TYPE_CHECKING

from torch.nn import ModuleDict

from .bytes import BytesAdapter
from .grid import SMALLEST_CONV_STEM_SIZE, GridAdapter, is_clip
from .inputs import ArrayAdapter, adapter_class
from .points import PointsAdapter
from .scalars import is_count, is_number

if TYPE_CHECKING:
    from .configuration_perceiver_study import PerceiverStudyConfig

_ADAPTERS = (GridAdapter, PointsAdapter, ArrayAdapter, BytesAdapter)
# Which they are stands with the kinds that read them.
INPUT_FIELDS = (
    "input_type",
    "input_name",
    *dict.fromkeys(name for adapter in _ADAPTERS for name in adapter.config_fields),
)
_COUNTS = (
    "num_axes",
    "stem_channels",
    "num_neighbors",
    "num_frequency_bands",
    "vocab_size",
    "max_position_embeddings",
    "d_model",
    "ngram_vocab_size",
)
_SWITCHES = ("concat_positions", "project_learned_positions")
_CHOICES = {
    "position_encoding_type": ("fourier", "learned", "none"),
}

_EMPTY = ModuleDict()  # modalities are entries of one, and it has no other of the name of an attribute


def require(config: "PerceiverStudyConfig", field: str, holds: bool, expected: str):
    """Raise a ValueError that names field and value, and says what was expected, unless it holds."""
    if not holds:
        raise ValueError(f"{field}={getattr(config, field)!r} in {type(config).__name__}: expected {expected}.")


def require_counts(config: "PerceiverStudyConfig", names: tuple[str, ...], minimum: int = 1):
    """Raise a ValueError unless these fields are whole numbers of at least `minimum`."""
    for name in names:
        require(config, name, is_count(getattr(config, name), minimum), f"a whole number of at least {minimum}")


def require_choices(
    config: "PerceiverStudyConfig", switches: tuple[str, ...], choices_of_fields: dict[str, tuple[str, ...]]
):
    """Raise a ValueError unless the first are True or False, and the others have one of their values."""
    for name in switches:
        require(config, name, isinstance(getattr(config, name), bool), "True or False")
    for name, choices in choices_of_fields.items():
        require(config, name, getattr(config, name) in choices, f"one of {', '.join(map(repr, choices))}")


def require_widths(config: "PerceiverStudyConfig", names: tuple[str, ...]):
    """Raise a ValueError unless these fields are None or whole numbers of at least 1."""
    for name in names:
        fits = getattr(config, name) is None or is_count(getattr(config, name))
        require(config, name, fits, "None or a whole number of at least 1")


def fits_range(value, most: int) -> bool:
    """Whether it is None, a whole number from 1 to `most`, or two of them, the lower first."""
    if value is None:
        return True
    numbers = list(value) if isinstance(value, (list, tuple)) else [value, value]
    counts = len(numbers) == 2 and all(is_count(number) for number in numbers)
    return counts and numbers[0] <= numbers[1] <= most


def _is_run(size) -> bool:
    return is_count(size, minimum=2) or (isinstance(size, int) and is_count(-size, minimum=2))


def check_input(config: "PerceiverStudyConfig"):
    """Check the fields of the only input, and resolve those that are None for what the others say."""
    require_counts(config, _COUNTS)
    require_widths(config, ("learned_position_channels", "neighbor_points"))
    require_choices(config, _SWITCHES, _CHOICES)
    adapter = adapter_class(config.input_type)
    require_counts(config, ("num_channels",), adapter.fewest_channels)
    stems = ", ".join(map(repr, adapter.stem_types))
    require(
        config,
        "stem_type",
        config.stem_type in adapter.stem_types,
        f"one of {stems} with input_type={config.input_type!r}",
    )
    for name in INPUT_FIELDS[2:]:
        fits = name in adapter.config_fields or getattr(config, name) == getattr(type(config), name)
        require(config, name, fits, f"{getattr(type(config), name)!r} with input_type={config.input_type!r}")
    name = config.input_name
    fits = name is None or (isinstance(name, str) and name.isidentifier())
    require(config, "input_name", fits, "None or the name of an argument")
    widths = config.neighbor_channels
    fits = widths is None or (isinstance(widths, (list, tuple)) and len(widths) > 0 and all(map(is_count, widths)))
    require(config, "neighbor_channels", fits, "None, or whole numbers of at least 1")
    sizes = config.ngram_sizes
    fits = sizes is None or (isinstance(sizes, (list, tuple)) and all(map(_is_run, sizes)))
    fits = fits and (sizes is None or len({*sizes}) == len(sizes) > 0)
    require(config, "ngram_sizes", fits, "None, or different whole numbers of at least 2, or of at most -2")
    _check_grid(config)
    _check_positions(config)
    adapter.check_config(config)
    fits = adapter.is_separable(config) or config.cross_attend_path != "separable"
    require(config, "cross_attend_path", fits, "'auto' or 'general' unless this is a grid with Fourier positions")
    # Resolved once, so that a later change of size leaves a model as it was trained.
    fourier = "max_frequencies" in adapter.config_fields and config.position_encoding_type == "fourier"
    if fourier and config.max_frequencies is None:
        config.max_frequencies = config.axis_max_frequencies
    if "absolute_positions" in adapter.config_fields and config.absolute_positions is None:
        config.absolute_positions = config.input_name == "input_values" or is_clip(config)


def _check_grid(config: "PerceiverStudyConfig"):
    axes = config.num_axes
    per_axis = f"one number per axis (num_axes={axes})"

    def fits_axes(value, fits) -> bool:
        values = value if isinstance(value, (list, tuple)) else [value] * axes
        return len(values) == axes and all(map(fits, values))

    def is_size(value) -> bool:
        return is_count(value)

    fits = fits_axes(config.image_size, is_size)
    require(config, "image_size", fits, f"a whole number of at least 1, or {per_axis}")
    convolved, patch = config.stem_type == "conv", config.patch_size
    require(config, "stem_type", not convolved or axes <= 3, "another for more than 3 axes")
    fits = not convolved or min(config.grid) >= SMALLEST_CONV_STEM_SIZE
    require(config, "image_size", fits, f"at least {SMALLEST_CONV_STEM_SIZE} for each axis with stem_type='conv'")
    fits = patch is None or fits_axes(patch, is_size)
    require(config, "patch_size", fits, f"None, a whole number of at least 1, or {per_axis}")
    require(config, "patch_size", not convolved or patch is None, "None with stem_type='conv', which makes its own")
    fits = is_count(config.channel_axis) and config.channel_axis <= axes + 1
    require(config, "channel_axis", fits, f"1 to {axes + 1}")
    fits = config.absolute_positions is None or isinstance(config.absolute_positions, bool)
    require(config, "absolute_positions", fits, "None, True or False")
    highest = config.max_frequencies
    fits = highest is None or fits_axes(highest, lambda value: is_number(value) and value > 0)
    require(config, "max_frequencies", fits, f"None, a number above 0, or {per_axis}")


def _check_positions(config: "PerceiverStudyConfig"):
    learned = config.position_encoding_type == "learned"
    for name, default in (("learned_position_channels", None), ("project_learned_positions", False)):
        fits = learned or getattr(config, name) == default
        require(config, name, fits, f"{default} unless position_encoding_type='learned'")


def check_modalities(config: "PerceiverStudyConfig"):
    """Check several inputs, each by a config of its own, and resolve their fields as those of an only one."""
    named = isinstance(config.modalities, dict) and len(config.modalities) > 0
    named = named and all(isinstance(fields, dict) for fields in config.modalities.values())
    require(config, "modalities", named, "a dict of at least one name, each with a dict of fields")
    for name in config.modalities:
        fits = isinstance(name, str) and name.isidentifier() and not hasattr(_EMPTY, name)
        require(config, "modalities", fits, f"another name than {name!r}, a letter and then letters, digits and _")
    for name in INPUT_FIELDS:
        fits = getattr(config, name) == getattr(type(config), name)
        require(config, name, fits, "to be in `modalities`, where it says of which input")
    resolved, inputs = {}, {}
    for name, fields in config.modalities.items():
        own = config.modality_config(name)
        inputs.setdefault(adapter_class(own.input_type).arguments_of(own)[0], []).append(name)
        kept = ("max_frequencies", "absolute_positions")
        resolved[name] = fields | {key: getattr(own, key) for key in kept if getattr(own, key) is not None}
    for argument, names in inputs.items():
        require(config, "modalities", len(names) == 1, f"an input_name for each of {names}, now all {argument!r}")
    config.modalities = resolved
    dropout = config.modality_dropout
    chances = dropout.values() if isinstance(dropout, dict) else [dropout]
    fits = all(is_number(chance) and 0 <= chance <= 1 for chance in chances)
    fits = fits and (not isinstance(dropout, dict) or dropout.keys() <= config.modalities.keys())
    require(config, "modality_dropout", fits, f"a number in [0, 1], or some by name of {list(config.modalities)}")
