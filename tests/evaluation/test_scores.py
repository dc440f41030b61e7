"""Scores of sets whose order is known, and what is said beside them."""

import pytest
import torch

from diffexp.config.schemas.data import FashionMnistConfig
from diffexp.data.fashion_mnist import load as fashion_mnist
from diffexp.errors import UserError
from diffexp.evaluation.extractors.base import check_count
from diffexp.evaluation.extractors.digits_v1 import load as digits_extractor
from diffexp.evaluation.extractors.fashion_mnist_v1 import load as fashion_mnist_extractor
from diffexp.evaluation.metrics.frechet import FrechetReference
from diffexp.evaluation.protocol import Protocol, protocol
from diffexp.evaluation.scores import Scores
from tests.helpers.sets import against, digits, gathered, noisy, scores_of


def test_the_same_images_have_distance_0_and_are_told_to_be_copies():
    scores = scores_of(digits(), against(digits()))
    assert scores["fd"].value < 1e-6
    assert scores["precision"].value == scores["recall"].value == 1
    assert (scores["nn_distance_ratio"].value, scores["memorized_fraction"].value) == (0, 1)
    assert "whether they are copies" in scores.warnings()[0]


def test_some_copies_are_noticed_too():
    real, fresh = digits()[::2], digits()[1::2]
    scores = scores_of(torch.cat([fresh, real[:100]]), against(real))
    assert scores["nn_distance_ratio"].value > 0.8
    assert scores["memorized_fraction"].value > 0.08
    assert len(scores.warnings()) == 1


def test_fresh_images_are_as_far_from_the_real_ones_as_these_from_each_other():
    real, fresh = digits()[::2], digits()[1::2]
    scores = scores_of(fresh, against(real))
    assert scores["nn_distance_ratio"].value == pytest.approx(1, abs=0.05)
    assert scores.warnings() == []
    assert 0 < scores["fd"].value < scores["fd"].expected + 4 * scores["fd"].error
    assert abs(scores["kd"].value) < 5 * scores["kd"].error  # which leaves out that of the reference


def test_the_batch_size_does_not_matter():
    one, other = (scores_of(digits()[:300], against(digits()[300:]), batch_size=size) for size in (300, 7))
    assert one["fd"].value == pytest.approx(other["fd"].value, rel=1e-5)
    assert one["kd"].value == pytest.approx(other["kd"].value, rel=1e-5)


@pytest.fixture(scope="module")
def fashion(real_fashion_mnist):
    """Real training images, and test images with their labels."""
    config = FashionMnistConfig()
    train = fashion_mnist("train", 32, 1, 1.0, root=config.root)
    test = fashion_mnist("test", 32, 1, 1.0, root=config.root)
    return train.images, test.images, test.labels


def blurred(images, sigma):
    from torchvision.transforms.functional import gaussian_blur

    return gaussian_blur(images, 9, sigma)


@pytest.mark.slow
def test_worse_sets_score_worse_in_the_expected_order_on_fashion_mnist(fashion):
    train, images, labels = (each[:count] for each, count in zip(fashion, (4000, 1000, 1000), strict=True))
    reference = against(train, fashion_mnist_extractor())

    def fd(some):
        return scores_of(some, reference, fashion_mnist_extractor())

    real = fd(images)
    assert abs(real["fd"].value - real["fd"].expected) < 4 * real["fd"].error
    assert real["nn_distance_ratio"].value == pytest.approx(1, abs=0.1)
    by_noise = [fd(noisy(images, level))["fd"].value for level in (5, 10, 25)]
    by_blur = [fd(blurred(images, sigma))["fd"].value for sigma in (0.6, 1.0, 2.0)]
    no_class = fd(images[labels != 3])
    five = fd(images[labels < 5])
    uniform = fd(torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    assert real["fd"].value < by_noise[0] < by_noise[1] < by_noise[2]
    assert real["fd"].value < by_blur[0] < by_blur[1] < by_blur[2]
    assert by_noise[1] < no_class["fd"].value < five["fd"].value < uniform["fd"].value
    assert five["recall"].value < no_class["recall"].value < real["recall"].value + 0.02
    assert uniform["recall"].value == 0  # its precision may be high, so that one never stands alone
    few = fd(images[:1].repeat(200, 1, 1, 1))
    assert few["recall"].value < 0.01


@pytest.mark.slow
def test_the_distance_of_few_images_is_larger_and_the_floor_says_so(fashion):
    train, images, _ = fashion
    frechet = FrechetReference(against(train[:20000], fashion_mnist_extractor()).gaussian)
    values = {}
    for count in (200, 1000, 4000):
        parts = [gathered(part, fashion_mnist_extractor()) for part in images.split(count)[:4]]
        values[count] = sum(frechet.distance(part.gaussian) for part in parts) / len(parts)
        assert values[count] == pytest.approx(frechet.expected(count).value, rel=0.35)
    assert values[200] > 3 * values[1000] > 6 * values[4000]


def rules(count, is_inception=False):
    return Protocol(count, "digits_v1", is_inception, {"count": count})


def test_metric_names_say_count_and_extractor_and_fid_is_inceptions():
    assert rules(50_000, is_inception=True).metric("fd") == "fid50k"
    assert rules(50_000, is_inception=True).metric("kd") == "kid50k"
    assert rules(2_048).metric("fd") == "fd_digits_v1_2048"
    assert rules(10_000).metric("recall") == "recall_digits_v1_10k"


def test_the_protocol_is_another_where_scores_cannot_be_compared():
    extractor = digits_extractor()
    reference = against(digits())
    same = protocol(500, extractor, reference)
    assert same.id == protocol(500, digits_extractor(), against(digits())).id
    assert same.id != protocol(501, extractor, reference).id
    assert same.id != protocol(500, extractor, against(digits()[:-1])).id
    extractor.identity = {**extractor.identity, "sha256": "another"}
    assert same.id != protocol(500, extractor, reference).id


def test_a_score_is_told_with_all_that_is_needed_to_read_it():
    scores = scores_of(noisy(digits()[:500], 30), against(digits()))
    text = scores.one_line("x", protocol(500, digits_extractor(), against(digits())))
    for part in ("fd_digits_v1_500", "±", "perfect: 0.6", "500 images", "protocol", "precision", "recall"):
        assert part in text
    assert Scores.from_dict(scores.as_dict()).with_influences(scores.influences()) == scores


def test_too_few_images_are_refused():
    with pytest.raises(
        UserError, match=r"score\.count: expected at least 128 images for the 128 features .*, got 100\."
    ):
        check_count(100, fashion_mnist_extractor(), "score.count")
