"""What the engine tells of a machine and a network."""

import pytest

from roadseg import engine
from tests.small import small_network


def test_operations_are_counted_as_by_hand():
    """Two for each weight of a convolution at each of its places, in a padded picture."""
    network = small_network(3)
    by_hand = 0
    for size, channels_in, channels, scale in (
        (3, 3, 4, 1),
        (3, 4, 4, 2),
        (3, 4, 8, 4),
        (3, 8, 8, 8),
        (3, 8, 8, 16),
        (7, 8, 8, 32),
        (1, 8, 8, 32),
        (1, 8, 3, 32),
        (1, 8, 3, 16),
        (1, 8, 3, 8),
    ):
        by_hand += 2 * size**2 * channels_in * channels * (64 // scale) * (96 // scale)
    assert engine.operations(network, (50, 70)) == by_hand
    first = 2 * 9 * 3 * 4 * 64 * 96
    assert engine.operations(network, (50, 70), training=True) == 3 * by_hand - first
    network.get_layer("block1_conv1").trainable = False
    second = 2 * 9 * 4 * 4 * 32 * 48
    assert engine.operations(network, (50, 70), training=True) == 3 * by_hand - 2 * first - second


def set_rates(monkeypatch, float32, bfloat16):
    rates = {"float32": float32, "mixed_bfloat16": bfloat16}
    monkeypatch.setattr(engine, "matrix_product_rate", lambda precision, **_: rates[precision])


@pytest.mark.parametrize(("bfloat16", "chosen"), [(2e9, "mixed_bfloat16"), (1.1e9, "float32")])
def test_training_rounds_where_that_is_much_faster(bfloat16, chosen, monkeypatch):
    set_rates(monkeypatch, 1e9, bfloat16)
    assert engine.faster_precision() == chosen


def test_a_moment_of_other_work_does_not_change_the_precision(monkeypatch):
    """Two of three rounds disturbed, one in each precision."""
    rates = {"mixed_bfloat16": iter([1e8, 2e9, 2e9]), "float32": iter([1e9, 1e8, 1e9])}
    monkeypatch.setattr(
        engine, "matrix_product_rate", lambda precision, **_: next(rates[precision])
    )
    assert engine.faster_precision() == "mixed_bfloat16"
