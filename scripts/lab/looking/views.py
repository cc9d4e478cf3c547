"""The views of all kinds of input, by the name of the model that takes it."""

from lab.looking.multimodal_view import MultimodalView
from lab.looking.text_view import MaskedView
from lab.looking.view import View

VIEWS: dict[str, type[View]] = {
    model: view for view in (*MultimodalView.kinds, MaskedView, MultimodalView) for model in view.models
}
