"""Label lists and prompt templates that the page offers."""

from __future__ import annotations

_GROUPS: dict[str, tuple[str, ...]] = {
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
}  # fmt: skip
LABELS: dict[str, tuple[str, ...]] = {
    "Everything": tuple(label for group in _GROUPS.values() for label in group),
    **_GROUPS,
    "CIFAR-10": (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ),
    "ImageNet, 40 classes": (
        "tench", "great white shark", "ostrich", "bald eagle", "tree frog", "scorpion",
        "peacock", "koala", "flamingo", "king penguin", "golden retriever", "tabby cat",
        "red fox", "tiger", "brown bear", "ladybug", "bee", "zebra", "African elephant",
        "giant panda", "acoustic guitar", "airliner", "backpack", "bathtub", "candle",
        "desktop computer", "digital clock", "fire engine", "grand piano", "hammer",
        "hot air balloon", "laptop", "pirate ship", "sports car", "teapot", "umbrella",
        "cheeseburger", "pizza", "strawberry", "volcano",
    ),
}  # fmt: skip

TEMPLATES = (
    "{}", "a picture of {}", "an icon of {}", "a photo of a {}",
    "{} | a picture of {} | an icon of {}",
    "a photo of a {} | a bad photo of a {} | a drawing of a {} | a close-up of a {}",
)  # fmt: skip

# The starter teacher does well on each of them: tests/integration/test_first_queries.py.
QUERIES = (
    "a boat at sea", "hearts", "person riding a bike", "citrus fruit", "phases of the moon",
    "people holding hands",
)  # fmt: skip
