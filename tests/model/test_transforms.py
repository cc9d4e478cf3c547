"""Transforms of `torch.func`, forward-mode differentiation, and gradients of gradients."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

from modeling_perceiver_study.paths import PATHS
from tests.models import GRIDS, mask, pixels, small_model

# torch's own first use of forward-mode differentiation.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@pytest.fixture(params=GRIDS.values(), ids=GRIDS.keys())
def grid(request):
    return request.param


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_transforms_of_functions(implementation):
    """Against the same without transforms: gradients, gradients of each sample, Jacobians."""
    model = small_model().double()
    model.set_attn_implementation(implementation)
    images = pixels(model.config, dtype=torch.float64)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def score(weights, images):
        return functional_call(model, weights, (images,)).logits.square().sum()

    def score_of_one(weights, image):
        return score(weights, image[None])

    alone = [_gradients(model, images[i : i + 1]) for i in range(3)]
    together = grad(score)(weights, images)
    of_each = vmap(grad(score_of_one), in_dims=(None, 0))(weights, images)
    for name, gradients in zip(weights, zip(*alone, strict=True), strict=True):
        if model.get_parameter(name).requires_grad:
            torch.testing.assert_close(together[name], sum(gradients), rtol=0, atol=1e-10)
            torch.testing.assert_close(of_each[name], torch.stack(gradients), rtol=0, atol=1e-10)
    expected = model(images).logits
    torch.testing.assert_close(vmap(lambda image: model(image[None]).logits[0])(images), expected, rtol=0, atol=1e-10)
    jacobian = jacrev(lambda images: model(images).logits.square().sum())(images)
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(model(images).logits.square().sum(), images)
    torch.testing.assert_close(jacobian, gradient, rtol=0, atol=1e-10)
    # Nothing of the transforms is left behind.
    assert torch.equal(model(images).logits, expected)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_mask_of_each_sample_in_a_transform(implementation):
    """One of a sample that shows nothing too: whether all is shown cannot be asked there."""
    model = small_model().double()
    model.set_attn_implementation(implementation)
    images, points = pixels(model.config, dtype=torch.float64), mask(model.config)
    points[1] = 0

    def score_of_one(image, mask):
        return model(image[None], attention_mask=mask[None]).logits.square().sum()

    found = vmap(grad(score_of_one))(images, points)
    images.requires_grad_()
    (expected,) = torch.autograd.grad(model(images, attention_mask=points).logits.square().sum(), images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def _gradients(model, images):
    used = [weight for weight in model.parameters() if weight.requires_grad]
    found = iter(torch.autograd.grad(model(images).logits.square().sum(), used))
    return [next(found) if weight.requires_grad else None for weight in model.parameters()]


def test_functional_calls_read_what_they_are_given():
    model, other = small_model(seed=1).double(), small_model(seed=2).double()
    images = pixels(model.config, dtype=torch.float64)
    logits = functional_call(
        model, dict(other.named_parameters()), (images,), {"cross_attend_path": "separable"}
    ).logits
    torch.testing.assert_close(logits, other(images).logits, rtol=0, atol=1e-10)


@forward_mode
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("how", ["torch.func.jvp", "dual numbers"])
def test_forward_mode(how, implementation):
    """Against finite differences."""
    model = small_model().double()
    model.set_attn_implementation(implementation)
    images, tangent = pixels(model.config, dtype=torch.float64), pixels(model.config, seed=3, dtype=torch.float64)
    if how == "dual numbers":
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(model(forward_ad.make_dual(images, tangent)).logits).tangent
    else:
        _, found = jvp(lambda images: model(images).logits, (images,), (tangent,))
    step = 1e-6
    expected = (model(images + step * tangent).logits - model(images - step * tangent).logits) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    with forward_ad.dual_level(), pytest.raises(ValueError, match="forward-mode differentiation is at work"):
        model(images, cross_attend_path="separable")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_gradients(grid, path, masked):
    """Of weights and pixels, by way of a gradient of pixels; against `torch.func` on the general path.

    With eager attention, as torch's fused attention has no gradients of gradients on a CPU, in any model.
    """
    model = small_model(**grid, attn_implementation="eager").double()
    points = mask(model.config) if masked else None
    images = pixels(model.config, dtype=torch.float64).requires_grad_()
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def penalty(path):
        score = model(images, attention_mask=points, cross_attend_path=path).logits.square().sum()
        (gradient,) = torch.autograd.grad(score, images, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), [images, *weights], allow_unused=True)

    for found, expected in zip(penalty(path), penalty("general"), strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@forward_mode
def test_hessians():
    model = small_model(image_size=[2, 2], attn_implementation="eager").double()
    images = pixels(model.config, batch=1, dtype=torch.float64)

    def score(images):
        return model(images).logits.square().sum()

    torch.testing.assert_close(
        hessian(score)(images), torch.autograd.functional.hessian(score, images), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("masked", [False, True])
def test_many_gradients_at_once(grid, path, masked):
    """As `is_grads_batched=True` and `jacobian(vectorize=True)` ask for them; against one by one.

    With eager attention: of torch's fused one `torch.func.vmap` says that it is slow.
    """
    model = small_model(**grid, attn_implementation="eager").double()
    points = mask(model.config) if masked else None
    images = pixels(model.config, dtype=torch.float64).requires_grad_()
    answers = model(images, attention_mask=points, cross_attend_path=path).logits.sum(dim=0)
    expected = [torch.autograd.grad(answer, images, retain_graph=True)[0] for answer in answers]
    chosen = torch.eye(len(answers), dtype=torch.float64)
    (found,) = torch.autograd.grad(answers, images, chosen, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-8, atol=1e-10)
    by_function = vmap(lambda one: torch.autograd.grad(answers, images, one, retain_graph=True)[0])(chosen)
    torch.testing.assert_close(by_function, found, rtol=1e-8, atol=1e-10)
