"""From what the caller gives to the elements that latents attend to: adapters, one class for each kind of input.

An adapter says which arguments of `forward` it takes, how wide and how many its elements are and which of them a mask
shows, and makes them: a `GridInputs`, with positions in separable form where it can, or an array `(B, M, K)` in that
form. Nothing behind it knows what the input was. `register_input_adapter` adds a kind, from outside this package too.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from .paths import has_values, keeps_nothing
from .separable import GridInputs, array_inputs, num_points, with_constant

if TYPE_CHECKING:
    from .configuration_perceiver_study import PerceiverStudyConfig

_FRESH = 0.02  # standard deviation of weights outside of a model


class InputAdapter(nn.Module):
    """`arguments of forward -> GridInputs`: the base of all kinds.

    A kind sets the class attributes, and defines `width_of`, `length` and `forward`; `is_separable` where it is.

    Attributes:
        input_name: what the argument with the input itself is called, unless the config's `input_name` says otherwise.
        more_arguments: names of further arguments.
        config_fields: fields of the config that the kind reads; the others that describe an input must be left alone.
        fewest_channels: least `num_channels`.
        stem_types: what the config's `stem_type` may be.
        supports_local_start: whether elements end in Fourier positions, as those of a grid of `num_axes` axes do, or
            begin with the lowest band.
        starts_locally_beside_others: the same where it is one of several inputs.
        masks_elements: whether its mask is `(B, M)`, so that a mask of the elements of several inputs can be told to
            it. Otherwise it does not know what such a mask hides, which is hidden afterwards.
        arguments: names of all arguments, in the order in which `forward` takes them.
        width: `K`, channels of an element.
    """

    input_name: str = "inputs"
    more_arguments: tuple[str, ...] = ()
    config_fields: tuple[str, ...] = ()
    fewest_channels: int = 1
    stem_types: tuple[str, ...] = ("none",)
    supports_local_start: bool = False
    starts_locally_beside_others: bool = False
    masks_elements: bool = False

    def __init__(self, config: "PerceiverStudyConfig"):
        super().__init__()
        self.config = config
        self.arguments = self.arguments_of(config)
        self.width = self.width_of(config)

    @classmethod
    def arguments_of(cls, config: "PerceiverStudyConfig") -> tuple[str, ...]:
        """Names of arguments of `forward`, first that of the input itself."""
        return (config.input_name or cls.input_name, *cls.more_arguments)

    @classmethod
    def width_of(cls, config: "PerceiverStudyConfig") -> int:
        """`K`, channels of an element."""
        raise NotImplementedError

    @classmethod
    def is_separable(cls, config: "PerceiverStudyConfig") -> bool:
        """Whether elements keep their positions in separable form, so that no array of them is needed."""
        return False

    @classmethod
    def num_local_axes(cls, config: "PerceiverStudyConfig") -> int:
        """Axes along which heads can start locally."""
        return config.num_axes

    @classmethod
    def check_config(cls, config: "PerceiverStudyConfig"):
        """Raise a ValueError where fields of the config do not fit this kind."""

    def length(self, *arguments: torch.Tensor | None) -> int:
        """`M`, elements that these arguments become."""
        raise NotImplementedError

    def forward(self, *arguments, dtype: torch.dtype, attention_mask: torch.Tensor | None = None) -> GridInputs:
        """Elements, in separable form in float32 or better, and otherwise in `dtype`, the model's.

        Args:
            attention_mask: 1 where latents may attend; its shape is for the kind to say.

        Raises:
            ValueError: an argument does not fit; names it, what was given and what was expected.
        """
        raise NotImplementedError

    def parts(
        self, given: dict[str, torch.Tensor], attention_mask: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[GridInputs, ...]:
        """The input of a model with only this one, from its arguments by name."""
        arguments = [given.get(name) for name in self.arguments]
        return (self(*arguments, dtype=dtype, attention_mask=attention_mask),)

    def lengths(self, given: dict[str, torch.Tensor]) -> dict[str, int]:
        """`M` by name of the input, in the order of `parts`."""
        return {self.arguments[0]: self.length(*(given.get(name) for name in self.arguments))}

    def alone(
        self, argument: str, given: dict[str, torch.Tensor], attention_mask: torch.Tensor | None
    ) -> dict[str, torch.Tensor | None]:
        """Arguments of `PerceiverStudyModel.elements` for the input `argument`, of a model with only this one."""
        return given | {"attention_mask": attention_mask}


def check_mask(mask: torch.Tensor | None, shape: tuple[int, ...], points: str = "input") -> torch.Tensor | None:
    """A mask of this shape in bool, or None.

    Raises:
        ValueError: it has another shape, or holds other numbers than 0 and 1, as one to add to logits does.
    """
    if mask is None:
        return None
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}: expected {tuple(shape)}, one entry per {points}."
        )
    if mask.dtype != torch.bool and has_values(mask) and not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"attention_mask of dtype {mask.dtype} holds other numbers than 0 and 1: expected 1 where latents may "
            "attend, and 0 elsewhere."
        )
    return mask.bool()


def check_needed_mask(mask: torch.Tensor | None, shape: tuple[int, ...], points: str = "input") -> torch.Tensor | None:
    """What `check_mask` returns, but None where nothing is hidden, as less is computed without a mask.

    On GPUs the mask stays, as looking at what it holds would wait for them.
    """
    mask = check_mask(mask, shape, points)
    seen = mask is not None and mask.device.type == "cpu" and has_values(mask)
    return None if seen and mask.all() else mask


def check_tensor(name: str, value: torch.Tensor):
    """Raise a ValueError unless the argument `name` is a tensor with at least one sample."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} are a {type(value).__name__}: expected a torch.Tensor, as torch.as_tensor makes one.")
    if not keeps_nothing() and value.ndim > 0 and value.shape[0] == 0:
        raise ValueError(f"{name} have shape {tuple(value.shape)}: expected at least one sample.")


def check_floating(name: str, value: torch.Tensor):
    """Raise a ValueError unless the argument `name` holds real numbers."""
    if not value.is_floating_point():
        raise ValueError(f"{name} have dtype {value.dtype}: expected a floating-point dtype such as torch.float32.")


def check_given(name: str, value: torch.Tensor | None):
    """Raise a ValueError if the argument `name` is missing."""
    if value is None:
        raise ValueError(f"{name} are missing: expected {name}, which this model was made for.")


def without_hidden_end(inputs: GridInputs) -> GridInputs:
    """Without the last rows of the grid, if masks hide them of all samples: computing follows real lengths.

    As the length of the result depends on values, programs and transforms keep everything.
    """
    mask = inputs.attention_mask
    if mask is None or not has_values(mask):
        return inputs
    rows = mask.unflatten(1, inputs.pixels.shape[2:]).any(dim=2).any(dim=0).nonzero()
    count = int(rows.max()) + 1 if len(rows) else 1
    if count == inputs.pixels.shape[2]:
        return inputs
    return inputs._replace(
        pixels=inputs.pixels[:, :, :count],
        rows=inputs.rows[:, :count],
        variance=None if inputs.variance is None else inputs.variance[:, :count],
        attention_mask=mask[:, : count * inputs.pixels.shape[3]],
    )


class ArrayAdapter(InputAdapter):
    """`(B, M, K)`: elements as they are given, positions included."""

    config_fields = ("num_channels",)
    masks_elements = True

    @classmethod
    def width_of(cls, config: "PerceiverStudyConfig") -> int:
        return config.num_channels

    def length(self, inputs: torch.Tensor) -> int:
        return inputs.shape[1]

    def forward(
        self, inputs: torch.Tensor | None, dtype: torch.dtype, attention_mask: torch.Tensor | None = None
    ) -> GridInputs:
        (name,) = self.arguments
        check_given(name, inputs)
        if inputs.ndim != 3 or inputs.shape[-1] != self.width or inputs.shape[1] == 0:
            raise ValueError(
                f"{name} have shape {tuple(inputs.shape)}: expected (batch, elements, {self.width}) with at least one "
                f"element and num_channels={self.width}."
            )
        check_floating(name, inputs)
        return shown_array(inputs.to(dtype), check_needed_mask(attention_mask, inputs.shape[:2]))


def shown_array(array: torch.Tensor, attention_mask: torch.Tensor | None) -> GridInputs:
    """`(B, M, K) -> GridInputs`, with zeros where a mask hides what may be NaN."""
    if attention_mask is not None:
        array = array.masked_fill(~attention_mask[..., None], 0)
    return array_inputs(array, attention_mask)


_ADAPTERS: dict[str, type[InputAdapter]] = {}


def register_input_adapter(input_type: str, adapter: type[InputAdapter]):
    """Make `adapter` the kind of input that a config's `input_type` calls by this name."""
    _ADAPTERS[input_type] = adapter


def adapter_class(input_type: str) -> type[InputAdapter]:
    """The class that is registered as `input_type`; raises a ValueError that names those that are."""
    if input_type not in _ADAPTERS:
        raise ValueError(
            f"input_type={input_type!r}: expected one of {', '.join(map(repr, sorted(_ADAPTERS)))}, or a kind that "
            "register_input_adapter was called for."
        )
    return _ADAPTERS[input_type]


def input_adapter(config: "PerceiverStudyConfig") -> nn.Module:
    """What turns arguments of `forward` into elements: an adapter of the only input, or of several."""
    return SeveralInputs(config) if config.modalities else adapter_class(config.input_type)(config)


def fresh_weight(*shape: int) -> nn.Parameter:
    """Small random numbers, for modules outside of a model; a model gives them others by its `initializer_range`.

    The state of torch's random numbers stays as it was, so that a seed makes the same model wherever these stand.
    """
    weight = nn.Parameter(torch.empty(shape))
    with torch.random.fork_rng(devices=[]):
        return nn.init.normal_(weight, std=_FRESH)


def draw_apart(modules: Iterable[nn.Module]):
    """Give fresh weights to modules that are to differ: those of one shape were all given the same ones."""
    with torch.random.fork_rng(devices=[]):
        for module in modules:
            nn.init.normal_(module.weight, std=_FRESH)


def _both(
    mask: torch.Tensor | None, of_all: torch.Tensor | None, before: int, elements: torch.Tensor | None
) -> torch.Tensor | None:
    """What the mask of `elements`, `(B, M)`, and the `M` columns of a mask of all inputs from `before` on both show.

    Where these do not fit, the mask as it is: what is wrong is told by what checks it.
    """
    if of_all is None or of_all.ndim != 2 or elements is None or elements.ndim < 2:
        return mask
    own = of_all[:, before : before + elements.shape[1]]
    if own.shape != elements.shape[:2] or (mask is not None and mask.shape != own.shape):
        return mask
    own = check_mask(own, own.shape)
    return own if mask is None else own & check_mask(mask, mask.shape)


class LearnedPadding(nn.Module):
    """`() -> (count,)`: channels that bring a modality to the common width, and say which modality it is."""

    def __init__(self, count: int):
        super().__init__()
        self.weight = fresh_weight(count)

    def forward(self) -> torch.Tensor:
        return self.weight


class SeveralInputs(nn.Module):
    """`arguments of forward -> GridInputs` for each modality that is given, all of one width `K`.

    The channels of a modality come first, then learned ones up to `K`, the same for all its elements (paper, section
    3.2; transformers' `PerceiverMultimodalPreprocessor`). Modalities come in the order of their names.

    The input itself is an argument of the adapter's name; other arguments, and the mask, have the name of the modality
    before them: `sound_attention_mask`. A mask without a name is `(B, M)` over the elements of all. A modality may be
    missing: for the batch if its argument is left out, and for a sample if its mask hides all of it.
    """

    def __init__(self, config: "PerceiverStudyConfig"):
        super().__init__()
        self.config = config
        configs = {name: config.modality_config(name) for name in sorted(config.modalities)}
        self.adapters = nn.ModuleDict({name: adapter_class(own.input_type)(own) for name, own in configs.items()})
        self.width = config.num_input_channels
        self.padding = nn.ModuleDict(
            {name: LearnedPadding(self.width - adapter.width) for name, adapter in self.adapters.items()}
        )
        draw_apart(self.padding.values())
        self.arguments = tuple(
            argument for name in self.adapters for argument in (*self._arguments(name), self._mask(name))
        )

    def _arguments(self, name: str) -> tuple[str, ...]:
        first, *others = self.adapters[name].arguments
        return (first, *(f"{name}_{other}" for other in others))

    def _mask(self, name: str) -> str:
        return f"{name}_attention_mask"

    def _given(self, given: dict[str, torch.Tensor]) -> dict[str, list[torch.Tensor | None]]:
        """Arguments of each modality of which there are any."""
        found = {}
        for name in self.adapters:
            values = [given.get(argument) for argument in self._arguments(name)]
            if any(value is not None for value in values):
                found[name] = values
            elif given.get(self._mask(name)) is not None:
                raise ValueError(
                    f"{self._mask(name)} is given without {self._arguments(name)[0]}: expected both or neither."
                )
        if not found:
            inputs = ", ".join(self._arguments(name)[0] for name in self.adapters)
            raise ValueError(f"No input is given: expected at least one of {inputs}.")
        return found

    def parts(
        self, given: dict[str, torch.Tensor], attention_mask: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[GridInputs, ...]:
        parts, before = {}, 0
        for name, values in self._given(given).items():
            adapter, mask = self.adapters[name], given.get(self._mask(name))
            if adapter.masks_elements:
                mask = _both(mask, attention_mask, before, values[0])
            try:
                parts[name] = adapter(*values, dtype=dtype, attention_mask=mask)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            before += num_points(parts[name])
        sizes = {name: part.pixels.shape[0] for name, part in parts.items()}
        if any(size != next(iter(sizes.values())) for size in sizes.values()):
            raise ValueError(f"Inputs have batches of different sizes, {sizes}: expected the same number of samples.")
        if attention_mask is not None:
            parts = self._mask_all(parts, attention_mask)
        parts = {name: with_constant(part, self.padding[name]()) for name, part in parts.items()}
        if self.training and len(parts) > 1 and self.config.modality_dropout:
            parts = self._drop(parts)
        return tuple(parts.values())

    def lengths(self, given: dict[str, torch.Tensor]) -> dict[str, int]:
        return {name: self.adapters[name].length(*values) for name, values in self._given(given).items()}

    def alone(
        self, argument: str, given: dict[str, torch.Tensor], attention_mask: torch.Tensor | None
    ) -> dict[str, torch.Tensor | None]:
        """Arguments for one input of several, as if it were given alone: it is hidden where either mask hides it."""
        before = 0
        for name, length in self.lengths(given).items():
            if self._arguments(name)[0] == argument:
                break
            before += length
        mask = _both(given.get(self._mask(name)), attention_mask, before, given[argument])
        return {key: given.get(key) for key in self._arguments(name)} | {self._mask(name): mask}

    def _mask_all(self, parts: dict[str, GridInputs], attention_mask: torch.Tensor) -> dict[str, GridInputs]:
        """Hide what `attention_mask`, `(B, M)` over the elements of all parts, hides beside their own masks."""
        lengths = [num_points(part) for part in parts.values()]
        shape = (len(next(iter(parts.values())).pixels), sum(lengths))
        masks = check_mask(
            attention_mask, shape, f"element of {', '.join(parts)}; or give {self._mask('NAME')} of each"
        )
        masked = {}
        for (name, part), mask in zip(parts.items(), masks.split(lengths, dim=1), strict=True):
            mask = mask if part.attention_mask is None else mask & part.attention_mask
            shown = mask.unflatten(1, part.pixels.shape[2:])
            pixels = part.pixels.masked_fill(~shown[:, None], 0)  # what is hidden may be NaN
            masked[name] = part._replace(pixels=pixels, attention_mask=mask)
        return masked

    def _drop(self, parts: dict[str, GridInputs]) -> dict[str, GridInputs]:
        """Hide each modality of a sample with the probability that the config says, but never all that there are."""
        dropout = self.config.modality_dropout
        first = next(iter(parts.values())).pixels
        chances = [dropout.get(name, 0.0) if isinstance(dropout, dict) else dropout for name in parts]
        there = torch.stack(
            [
                first.new_ones(len(first), dtype=torch.bool)
                if part.attention_mask is None
                else part.attention_mask.any(dim=1)
                for part in parts.values()
            ],
            dim=1,
        )
        draws = torch.rand(there.shape, device=first.device)
        kept = there & (draws >= draws.new_tensor(chances))
        # Where none is left, the one that was nearest to being kept: its draw is the highest of those that are there.
        last = nn.functional.one_hot(draws.masked_fill(~there, -1.0).argmax(dim=1), there.shape[1]).bool()
        kept = kept | (last & there & ~kept.any(dim=1, keepdim=True))
        dropped = {}
        for index, (name, part) in enumerate(parts.items()):
            shown = kept[:, index : index + 1].expand(-1, num_points(part))
            mask = shown if part.attention_mask is None else part.attention_mask & shown
            dropped[name] = part._replace(attention_mask=mask)
        return dropped


register_input_adapter("array", ArrayAdapter)
