"""The buckets of sd-scripts. Expected values were made by its own BucketManager with the same parameters."""

import pytest

from danceopd_ext.data.buckets import BucketRules
from danceopd_ext.errors import UserError

IMAGES = [(1024, 1024), (1920, 1080), (1080, 1920), (4000, 1000), (300, 200), (513, 511), (832, 1216), (100, 2000)]


@pytest.mark.parametrize(
    ("rules", "buckets"),
    [
        (
            BucketRules((1024, 1024), True, 512, 2048, 64),
            [(1024, 1024), (1344, 768), (768, 1344), (2048, 512), (1216, 832), (1024, 1024), (832, 1216), (512, 2048)],
        ),
        (
            BucketRules((512, 512), True, 256, 1024, 64),
            [(512, 512), (640, 384), (384, 640), (1024, 256), (640, 384), (512, 512), (384, 640), (256, 1024)],
        ),
        (
            BucketRules((512, 768), True, 256, 1024, 64),
            [(576, 576), (832, 448), (448, 832), (1024, 256), (768, 512), (576, 576), (512, 768), (256, 1024)],
        ),
        (
            BucketRules((1024, 1024), True, 256, 1024, 64, bucket_no_upscale=True),
            [(1024, 1024), (1344, 768), (768, 1344), (2048, 512), (256, 192), (512, 448), (832, 1216), (64, 1984)],
        ),
        (BucketRules((640, 480)), [(640, 480)] * 8),
    ],
)
def test_images_fall_into_the_toolkits_buckets(rules, buckets):
    checked = rules.checked("here")
    assert [checked.select(image) for image in IMAGES] == buckets


def test_all_buckets_of_a_resolution():
    assert BucketRules((512, 512), True, 256, 1024, 128).buckets == [
        *((256, 768), (256, 896), (256, 1024), (384, 640), (512, 512)),
        *((640, 384), (768, 256), (896, 256), (1024, 256)),
    ]


def test_an_image_of_bucket_size_keeps_its_size():
    # (512, 1984) and (512, 2048) have nearly the same shape: the exact size wins.
    rules = BucketRules((1024, 1024), True, 512, 2048, 64)
    assert rules.select((512, 1984)) == (512, 1984)


def test_limits_move_outwards_to_whole_steps():
    rules = BucketRules((512, 512), True, 300, 1000, 64).checked("here")
    assert (rules.min_bucket_reso, rules.max_bucket_reso) == (256, 1024)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (BucketRules((1536, 1536), True), ["max_bucket_reso = 1024", "1536x1536", "at least 1536", "my.toml"]),
        (BucketRules((192, 512), True), ["min_bucket_reso = 256", "192x512", "at most 192"]),
    ],
)
def test_a_resolution_outside_the_limits_is_refused(rules, words):
    with pytest.raises(UserError) as caught:
        rules.checked("my.toml, dataset 1")
    assert all(word in str(caught.value) for word in words)


def test_limits_do_not_count_without_buckets():
    assert BucketRules((1536, 1536)).checked("here").select((10, 10)) == (1536, 1536)


def test_an_image_smaller_than_a_step_has_no_bucket():
    rules = BucketRules((512, 512), True, bucket_no_upscale=True)
    with pytest.raises(ValueError, match="50x900 is smaller than one bucket step"):
        rules.select((50, 900))


def test_a_step_that_is_longer_than_the_resolution_is_refused():
    """No bucket would be left: the square one would have no width."""
    rules = BucketRules((64, 64), True, 16, 2000, 1000)
    with pytest.raises(UserError, match=r"d.toml: bucket_reso_steps = 1000 is more than the resolution 64x64.*most 64"):
        rules.checked("d.toml")
    assert BucketRules((100, 400), True, 100, 400, 150).checked("d.toml").buckets, "the area has room for a step"
