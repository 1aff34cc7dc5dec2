"""The page for a class: one neuron to play with, then the sections of a run's page, each with its part of the story."""

import math
from dataclasses import replace
from pathlib import Path

from hillstart.report import run, write
from hillstart.report.page import Section, render
from hillstart.system.files import replacing

INPUTS, WEIGHTS, BIAS = (0.5, 0.9, 0.1), (2, 0.2, 1), 1
"""The first numbers of the neuron: its weighted sum is 1.28, with the bias 2.28, and it sends out 0.907."""
TITLE = "How a neural network learns"
ABOUT = (
    "A neural network is circles and lines with numbers on them. Training is a ball rolling down a hill, and the hill "
    "has many valleys. Nothing on this page is only a sketch of that: the networks are real, and you can change, draw "
    "and train here. The page needs no connection, and what you draw does not leave it."
)


def write_lesson(folder: Path, page: Path) -> None:
    """Write the page for a class as one file.

    Args:
        folder: of a finished run on pictures with several starts: the networks that are shown.
        page: the file to write.

    Raises:
        InputError: the run cannot be read, or the file cannot be written.
    """
    of = run.read(folder)
    story = _story(of)
    told = [replace(section, story=story.get(section.name, "")) for section in write.sections(of, math.inf)]
    content = render([neuron(), *told], TITLE, ABOUT)
    with replacing(page, sync=False) as new:
        new.write_text(content, encoding="utf-8")


def neuron() -> Section:
    """The section in which the reader sets the numbers of one neuron."""
    return Section(
        "neuron",
        "One neuron",
        "Change the numbers and see what goes out. Can you bring it below 0.5 by the bias alone? Which weight hardly "
        "matters, because its input is so small?",
        {"lines": list(zip(INPUTS, WEIGHTS, strict=True)), "bias": BIAS},
        story="This is one circle of a network, a neuron. It multiplies each input by the weight of its line, adds up "
        "the products and its bias, and squeezes the sum between 0 and 1.",
    )


def _story(of: run.FinishedRun) -> dict[str, str]:
    """The introduction of each section of the run for a class, by the name of the section."""
    sizes, count, starts = of.classifier.network.sizes, of.summary["pictures"], len(of.rows)
    hidden = " and ".join(map(str, sizes[1:-1]))
    classes = " and ".join(of.classifier.classes)
    return {
        "network": "Now many neurons, in layers: what a neuron sends out is an input of every neuron in the next "
        f"layer. This network takes in the {sizes[0]} pixels of a picture. It has {hidden} hidden neurons and one "
        f"output for each answer: {classes}. The larger an output, the more the network believes in that answer. It "
        f"is the best of {starts} that were trained, the chosen start.",
        "node": "Each circle of the network does what the one neuron at the top of this page does. It only has more "
        "inputs.",
        "gradient": "Before training, all weights are random numbers, and the network guesses. How wrong it is "
        "becomes one number, the cost; 0 is perfect. The gradient says for each weight whether the cost rises or "
        "falls when the weight grows, and how fast. Each step of training moves every weight a little against its "
        "gradient, so that the cost falls.",
        "hill": "Think of the cost as the height of a hill, and of the network as a ball on it. Where the ball lies "
        "depends on the weights. Each step of training lets it roll a little downhill. A seed is the number from "
        "which the random weights of a start follow; it serves as the name of the start.",
        "live": "Now you are the trainer. The steps of the ball are as long as you make them, by η: short steps take "
        "long, and with steps too long the ball jumps across the valley.",
        "valleys": "A hill has many valleys, and in which one the ball ends depends on where it starts. Therefore "
        f"{starts} networks were trained, each from its own random weights. The one with the lowest cost on "
        f"{count['val']} pictures that it did not learn from was chosen.",
        "learning": f"All {starts} networks learned from the same {count['train']} pictures, which they saw again and "
        "again: once in each epoch.",
        "quality": "In the end one question counts: how often is the answer right on pictures that played no part so "
        "far? The networks may also vote, and together they often know better than one alone.",
    }
