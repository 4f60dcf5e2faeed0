"""Generates questions about things that do not exist, so that any concrete answer to them is a hallucination.

Names are pseudo-words of a seeded generator; those that are also a city are left out. It knows no model.
"""

import random
from collections.abc import Iterator

from offline.questions.world import load_cities
from offline.records import Question

_ONSETS_TEXT = "b br d dr f g gl k kr l m n p pl r s sk t tr v z"
_VOWELS_TEXT = "a e i o u ae ei ou"
_ONSETS = _ONSETS_TEXT.split()
_VOWELS = _VOWELS_TEXT.split()
_CODAS = ["", "", "l", "n", "r", "s", "th", "x", "sk", "nd"]
_MADE_UP = {
    "author": "Who wrote the novel {a} of {b}?",
    "album artist": "Which band recorded the album {a} {b}?",
    "city country": "In which country is the city of {a}?",
    "island capital": "What is the capital of the island nation of {a}?",
    "battle year": "In which year was the Battle of {a} fought?",
    "treaty place": "In which city was the Treaty of {a} signed?",
    "river sea": "Into which sea does the river {a} flow?",
    "mountain height": "How high is Mount {a} in metres?",
    "scientist field": "For which discovery is the physicist {a} {b} known?",
    "birth year": "In which year was the painter {a} {b} born?",
    "film director": "Who directed the film The {a} of {b}?",
    "drug use": "Which disease is the drug {c} used to treat?",
    "company founder": "Who founded the company {a} Industries?",
    "animal class": "To which class of animals does the {c} belong?",
    "plant family": "To which plant family does the {c} flower belong?",
    "language family": "To which language family does {a} belong?",
    "dish country": "From which country does the dish {c} come?",
    "sport team": "For which football club did {a} {b} play?",
    "king dynasty": "To which dynasty did King {a} of {b} belong?",
    "theorem author": "Which mathematician proved the {a} theorem?",
    "element number": "What is the atomic number of the element {c}ium?",
    "instrument": "How many strings does the {c} have?",
    "award year": "In which year was the {a} Prize first awarded?",
    "character book": "In which book does the character {a} {b} appear?",
}
MADEUP_EACH = 150
"""Made-up questions of each kind."""


def make_madeup_questions(source: str, seed: int) -> Iterator[Question]:
    """Generate questions about things that do not exist.

    Args:
        source: source name; prefix of the question ids.
        seed: decides the names.

    Yields:
        Questions without accepted answers, `MADEUP_EACH` of each kind.
    """
    # Not for security; a name that is a real city would have a right answer.
    chance = random.Random(f"madeup/{seed}")  # noqa: S311
    used = {city["name"].lower() for city in load_cities()}

    def invent() -> str:
        while True:
            syllables = chance.choice((2, 2, 3))
            word = "".join(chance.choice(_ONSETS) + chance.choice(_VOWELS) for _ in range(syllables)) + chance.choice(
                _CODAS
            )
            if len(word) > 5 and word not in used:
                used.add(word)
                return word

    for kind, template in _MADE_UP.items():
        for index in range(MADEUP_EACH):
            text = template.format(a=invent().title(), b=invent().title(), c=invent())
            yield Question(f"{source}/{kind}/{index}", text, (), source, kind)
