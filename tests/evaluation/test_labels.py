"""Check how labels of another set are matched with a model's classes."""

from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus
from vcrast.evaluation.labels import find_places, match

MODEL = ("dog", "Dog", "sea waves", "rain")


def corpus(classes, labels, *, multilabel=False):
    clips = tuple(Clip(f"{number}.wav", tuple(own)) for number, own in enumerate(labels))
    return Corpus("other", clips, tuple(classes), multilabel, ())


def test_exact_names_first_then_alike_ones_if_there_is_just_one():
    found = find_places(("Dog", "dog", "DOG", "Sea_Waves", "RAIN ", "siren"), MODEL)
    assert found.of == (1, 0, None, 2, 3, None)  # DOG could be either
    assert found.renamed == {"Sea_Waves": "sea waves", "RAIN ": "rain"}


def test_clips_get_the_models_places_and_what_it_does_not_know_is_counted():
    other = corpus(("siren", "Rain", "dog"), [[0], [1], [2], [], [1]])
    found = match(other, other.clips, MODEL)
    assert [clip.labels for clip in found.clips] == [(3,), (0,), (3,)]
    assert [clip.path for clip in found.clips] == ["1.wav", "2.wav", "4.wav"]
    assert (found.renamed, found.unknown) == ({"Rain": "rain"}, {"siren": 1})
    assert (found.num_unlabelled, found.num_unknown, found.single) == (1, 1, True)


def test_of_several_labels_the_known_ones_stay_and_none_at_all_is_an_answer():
    other = corpus(("siren", "rain", "Rain"), [[0, 1], [1, 2], [0], []], multilabel=True)
    found = match(other, other.clips, MODEL)
    assert [clip.labels for clip in found.clips] == [(3,), (3,), ()]
    assert (found.unknown, found.num_unlabelled, found.num_unknown) == ({"siren": 2}, 0, 1)
    assert not found.single


def test_labels_that_no_clip_carries_are_nobodys_business():
    other = corpus(("siren", "RAIN", "dog"), [[2]])
    found = match(other, other.clips, MODEL)
    assert (found.unknown, found.renamed) == ({}, {})
