"""Lists of sentences: their published sizes and relations, how values become sentences, and the average over them."""

import numpy as np
import pytest

from fdbpl_jax import config, datasets, templates, text, towers


def test_the_lists_have_their_published_sizes_and_every_sentence_one_place():
    sizes = {name: len(sentences) for name, sentences in templates.LISTS.items()}
    assert sizes == {"imagenet_80": 80, "imagenet_7": 7, "promptsrc_60": 60}
    for name, sentences in templates.LISTS.items():
        assert len(set(sentences)) == len(sentences), name
        assert all(one.count("{}") == 1 and one.endswith(".") for one in sentences), name


def test_the_shorter_lists_are_parts_of_the_80():
    assert set(templates.IMAGENET_7) < set(templates.IMAGENET_80)
    assert set(templates.PROMPTSRC_60) < set(templates.IMAGENET_80)
    # As they stand in the public files: first, second, and the last one's end.
    assert templates.PROMPTSRC_60[:2] == ("a photo of a {}.", "a bad photo of a {}.")
    assert templates.PROMPTSRC_60[-1] == "itap of the {}."
    assert templates.IMAGENET_80[-1] == "a tattoo of the {}."


def test_names_sentences_and_the_data_sets_own_stand_beside_each_other():
    own = "a photo of a {}, a type of pet."
    assert templates.resolve((), own=own) == (own,)
    assert templates.named("imagenet_7") == templates.IMAGENET_7
    ensemble = templates.resolve(("imagenet_7", "dataset", "itap of a {}."), own=own)
    assert ensemble == (*templates.IMAGENET_7, own)
    # As a command line hands several over, and a sentence with a comma of its own.
    assert templates.resolve(("imagenet_7,dataset",), own=own) == ensemble
    assert templates.resolve((own,), own=None) == (own,)


def test_all_bad_values_are_named_with_what_was_probably_meant():
    bad = ("imagenet_8", "a photo.", "a {} and a {}.", "dataset")
    with pytest.raises(templates.TemplateError) as caught:
        templates.resolve(bad, own=None)
    for part in ("did you mean imagenet_80?", "'a photo.' has 0", "has 2 places", "no data set"):
        assert part in str(caught.value)
    with pytest.raises(config.ConfigError, match=r"data\.templates: 'imagenet_8'.*imagenet_80"):
        config.read({"data": {"templates": ("imagenet_8",)}})


def test_features_are_the_mean_of_unit_features(student):
    names = ("red circle", "blue_ring")
    sentences = ("a photo of a {}.", "the {}.", "a {} in a picture.")
    found = text.template_features(student, names, sentences)
    each = [towers.text_features(student, datasets.texts(names, one)) for one in sentences]
    mean = np.mean([one / np.linalg.norm(one, axis=1, keepdims=True) for one in each], axis=0)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
