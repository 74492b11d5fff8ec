"""A model whose features are angles in the plane, so that its answers can be worked out by hand."""

import numpy as np
from PIL import Image

from tinyclip_edge.runtime.protocol import EmbedderSpec

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def unit(degrees):
    radians = np.deg2rad(np.asarray(degrees, dtype=np.float64))
    return np.stack([np.cos(radians), np.sin(radians)], axis=-1).astype(np.float32)


class AngleModel:
    """Colours and words as angles: similarity is the cosine of their difference."""

    def __init__(self, name, colours, words, scale=10.0):
        self.name = name
        self.spec = EmbedderSpec(8, 2, 1000, 10, 4000, "torch", "fp32")
        self.logit_scale = scale
        self.colours, self.words = colours, words
        self.image_calls, self.text_calls = [], []

    def encode_image(self, images):
        self.image_calls.append(len(images))
        return unit([self.colours.get(self.colour(image), 90) for image in images])

    def encode_text(self, texts):
        self.text_calls.append(tuple(texts))
        return unit([self.words.get(text, 90) for text in texts])

    @staticmethod
    def colour(image):
        if isinstance(image, np.ndarray):
            return tuple(int(value) for value in image[0, 0])
        return image.getpixel((0, 0))


def square(colour):
    return Image.new("RGB", (8, 8), colour)


def last(steps):
    """What a generator yields at the end."""
    *_, item = steps
    return item
