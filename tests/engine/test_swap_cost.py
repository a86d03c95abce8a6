"""What swapped blocks cost, against the figures of a known card."""

from danceopd_ext.engine.swap_cost import PCI_EXPRESS_4, moved, samples_that_hide, seconds_lost

#: Z-Image in bfloat16: blocks of 181 million weights, and the FLOP of a forward at 1024 and 512 pixels
SIZES, LARGE, SMALL = [362_000_000] * 34, 56.6e12, 13.7e12
#: what an RTX 4070 reaches
CARD = 40e12


def test_a_pass_moves_the_blocks_that_travel():
    """Two blocks more than stay in main memory take turns on the device; all of them at most."""
    assert moved(SIZES, 0) == 0
    assert moved(SIZES, 10) == 12 * SIZES[0]
    assert moved(SIZES, 32) == sum(SIZES)


def test_one_large_sample_or_two_small_ones_hide_the_whole_base():
    """12.3 GB take half a second; a sample takes 1.4 seconds at 1024 pixels and 0.34 at 512."""
    everything = moved(SIZES, 32)
    assert samples_that_hide(everything, LARGE, CARD) == 1
    assert samples_that_hide(everything, SMALL, CARD) == 2
    assert samples_that_hide(everything, SMALL, CARD, PCI_EXPRESS_4 / 4) == 6
    assert samples_that_hide(0, SMALL, CARD) == 1


def test_what_cannot_be_hidden_is_lost():
    everything = moved(SIZES, 32)
    assert seconds_lost(everything, LARGE / CARD) == 0
    assert 0.1 < seconds_lost(everything, SMALL / CARD) < 0.2
