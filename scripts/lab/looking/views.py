"""The views of all kinds of input, by the name of the model that takes it."""

from lab.looking.image_view import ImageView
from lab.looking.multimodal_view import MultimodalView
from lab.looking.points_view import PointsView
from lab.looking.sound_view import SoundView
from lab.looking.text_view import MaskedView, TextView
from lab.looking.video_view import VideoView
from lab.looking.view import View

VIEWS: dict[str, type[View]] = {
    "PerceiverStudyForAudioClassification": SoundView,
    "PerceiverStudyForImageClassification": ImageView,
    "PerceiverStudyForMaskedLM": MaskedView,
    "PerceiverStudyForMultimodalClassification": MultimodalView,
    "PerceiverStudyForPointCloudClassification": PointsView,
    "PerceiverStudyForSequenceClassification": TextView,
    "PerceiverStudyForVideoClassification": VideoView,
}
