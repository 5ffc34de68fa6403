"""Ingredients can be left out, one by one, from the configuration on."""

import pytest

from carkp.config.schema import SyntheticConfig
from carkp.synthetic.ingredients import ALL, INGREDIENTS, Ingredients


def test_the_configuration_offers_what_the_generator_has_and_takes_all():
    assert SyntheticConfig().ingredients == INGREDIENTS
    assert Ingredients.of(SyntheticConfig().ingredients) == ALL


@pytest.mark.parametrize("name", INGREDIENTS)
def test_one_can_be_left_out(name):
    left = Ingredients.of(other for other in INGREDIENTS if other != name)
    assert [getattr(left, other) for other in INGREDIENTS] == [other != name for other in INGREDIENTS]


def test_unknown_ingredients_are_refused_by_name():
    with pytest.raises(ValueError, match=r"no ingredient is called snow; there are vehicles"):
        Ingredients.of(["light", "snow"])
    with pytest.raises(ValueError, match="ingredients"):
        SyntheticConfig(ingredients=("snow",))
