"""Normal form and its way back to the original code points."""

import pytest

from offline.labels.normalise import find_phrase, normalise, split_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Padmé Amidala", "padme amidala"),
        ("Rubik\u2019s Cube", "rubik cube"),
        ("O'Neill", "oneill"),
        ("J. K. Rowling", "jk rowling"),
        ("J.K. Rowling", "jk rowling"),
        ("1,000 men & seven women", "1000 men and 7 women"),
        ("twenty-one", "21"),
        ("3.14", "3.14"),
        ("Straße in Łódź", "strasse in lodz"),
        ("\ufb01ne", "fine"),
        ("The Beatles", "beatles"),
        ("東京です", "東 京 で す"),
        ("...", ""),
    ],
)
def test_forms_that_models_and_alias_lists_spell_apart(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    "text",
    ["The Padmé\u2019s 1,000 J. K. ﬁne Straße twenty-one", "e\u0301te\u0301 naïve", "東京 🚁 O'Neill's", "İstanbul"],
)
def test_offsets_name_the_characters_a_word_came_from(text):
    words = split_words(text)
    assert words
    ends = [0, *(word.end for word in words)]
    for word, before in zip(words, ends, strict=False):
        assert before <= word.start < word.end <= len(text)
        assert normalise(text[word.start : word.end]) == word.text


def test_match_gives_the_original_span_when_folding_changes_the_length():
    text = "🚁 Die Straße der Ðanes: Padmé!"
    ((start, end),) = find_phrase(text, "padme")
    assert text[start:end] == "Padmé"


def test_single_letter_answer_is_not_swallowed_as_an_article():
    assert find_phrase("It is vitamin C.", "Vitamin A") == []
    assert find_phrase("It is vitamin A.", "Vitamin A") == [(6, 15)]


def test_articles_inside_a_title_may_differ():
    assert find_phrase("Lord of Rings", "The Lord of the Rings")
    assert find_phrase("The Lord of the Rings", "Lord of Rings")


def test_no_match_inside_a_longer_word_or_number():
    assert find_phrase("Parisian", "Paris") == []
    assert find_phrase("7,000 men", "7") == []
    assert find_phrase("1988", "198") == []


def test_plural_is_ignored_but_short_words_are_kept_apart():
    assert find_phrase("helicopters", "Helicopter")
    assert find_phrase("Mars", "Mar") == []


def test_answer_without_letters_is_found_as_written():
    assert find_phrase("It is a 🚁.", "🚁") == [(8, 9)]
    assert find_phrase("a - b", "-") == []


def test_answer_inside_unspaced_script_is_a_whole_word():
    assert find_phrase("首都は東京です", "東京") == [(3, 5)]
