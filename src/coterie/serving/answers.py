"""The forms of what the server says, which its OpenAPI page shows."""

from pydantic import BaseModel, Field

from coterie.records import Card
from coterie.serving.batching import Answer
from coterie.serving.networks import Array


class Likely(BaseModel):
    """One of the likeliest classes."""

    name: str = Field(description="the class")
    probability: float = Field(description="in [0, 1]")


class Said(BaseModel):
    """What one network says of an image."""

    top: list[Likely] = Field(description="the likeliest classes, best first")
    probabilities: dict[str, float] = Field(description="of every class")


class ImageAnswer(BaseModel):
    """What is said of an image."""

    image: str = Field(description="the file's name, as it was sent")
    top: list[Likely] = Field(description="the likeliest classes, best first")
    probabilities: dict[str, float] = Field(description="of every class")
    ensemble: Said | None = Field(default=None, description="what the ensemble says, where it was asked")
    differ: bool | None = Field(default=None, description="whether network and ensemble name different classes")


class Latency(BaseModel):
    """Where the time went, in milliseconds."""

    total: float = Field(description="from the last byte of the request to the answer")
    network: float = Field(description="the slowest batch that held an image of the request")
    batch: int = Field(description="how many images that batch held")


class Prediction(BaseModel):
    """The answer to a request."""

    images: list[ImageAnswer] = Field(description="in the order in which they were sent")
    latency_ms: Latency


class Refusal(BaseModel):
    """Why there is no answer."""

    detail: str = Field(description="what is wrong and how to mend it, in one line")


class State(BaseModel):
    """How the server is."""

    status: str


class Model(BaseModel):
    """What answers, and within which limits."""

    network: str | None = Field(description="the backbone; null for a module of its trainer's own")
    student: str = Field(description="which deliverable of the training it is")
    method: str
    data: str = Field(description="the data set that it was trained on")
    classes: list[str]
    channels: int
    image_size: tuple[int, int] = Field(description="height and width in pixels, to which images are resized")
    ensemble: bool = Field(description="whether the ensemble can be asked too")
    max_images: int = Field(description="of a request")
    max_bytes: int = Field(description="of an image")
    max_pixels: int = Field(description="of an image")


def say(card: Card, probabilities: Array, top: int) -> Said:
    """What a network's probabilities (C,) say, with the likeliest classes."""
    names, values = card["classes"], probabilities.tolist()
    best = sorted(range(len(values)), key=lambda place: -values[place])[:top]
    return Said(
        top=[Likely(name=names[place], probability=values[place]) for place in best],
        probabilities=dict(zip(names, values, strict=True)),
    )


def answer_of(card: Card, name: str, answer: Answer, top: int) -> ImageAnswer:
    """What is said of an image."""
    ours = say(card, answer.probabilities, top)
    if answer.ensemble is None:
        return ImageAnswer(image=name, top=ours.top, probabilities=ours.probabilities)
    theirs = say(card, answer.ensemble, top)
    differ = ours.top[0].name != theirs.top[0].name
    return ImageAnswer(image=name, top=ours.top, probabilities=ours.probabilities, ensemble=theirs, differ=differ)
