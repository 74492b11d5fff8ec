"""Label lists and prompt templates that the page offers."""

from __future__ import annotations

LABELS: dict[str, tuple[str, ...]] = {
    "Animals": (
        "cat", "dog", "horse", "cow", "pig", "rabbit", "bear", "elephant", "lion", "monkey",
        "fish", "bird", "frog", "octopus",
    ),
    "Food": (
        "red apple", "banana", "grapes", "pizza", "hamburger", "bread", "cheese", "carrot",
        "birthday cake", "ice cream", "hot beverage",
    ),
    "Travel": (
        "automobile", "bus", "train", "bicycle", "airplane", "rocket", "ship", "helicopter",
        "ambulance", "tractor",
    ),
    "Faces": (
        "smiling face", "crying face", "angry face", "sleeping face", "surprised face",
        "face with sunglasses", "thinking face",
    ),
    "Things": (
        "key", "lock", "umbrella", "scissors", "hammer", "book", "clock", "camera", "light bulb",
        "guitar", "telephone", "envelope",
    ),
    "CIFAR-10": (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ),
    "ImageNet, 12 classes": (
        "tench", "ostrich", "tabby cat", "golden retriever", "African elephant", "ladybug",
        "acoustic guitar", "sports car", "teapot", "umbrella", "pizza", "lakeside",
    ),
}  # fmt: skip

TEMPLATES = ("{}", "a picture of {}", "an icon of {}", "a photo of a {}")

QUERIES = (
    "sailing boat", "angry face", "musical instrument", "fruit", "bad weather",
    "people holding hands",
)  # fmt: skip
