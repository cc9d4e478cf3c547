"""transformers' common tests of image processors."""

import unittest

from modeling_perceiver_study import PerceiverStudyImageProcessor
from tests.transformers_mixins import load

common = load("test_image_processing_common")


class PerceiverStudyImageProcessingTester(common.ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        size = {"height": 20, "width": 18}
        super().__init__(parent, max_resolution=90, size=size, crop_size=size, num_frequency_bands=4, **kwargs)

    def _get_image_processing_classes(self):
        return {"pil": PerceiverStudyImageProcessor}


class PerceiverStudyImageProcessingTest(common.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = PerceiverStudyImageProcessingTester
    test_cast_dtype = True

    @unittest.skip("Pillow does the work with and without torchvision, so that both give the same numbers")
    def test_new_models_require_torchvision_backend(self):
        pass
