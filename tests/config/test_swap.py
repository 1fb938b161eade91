"""Check that a part chosen on the command line starts from its own file."""

from shipped import shipped_options

from vcrast.config.compose import compose


def test_another_objective_drops_what_the_recipe_sets_of_its_own():
    assert compose(["recipe=demo"]).objective["projector_dims"] == [1024, 1024, 1024]
    assert compose(["recipe=demo", "objective=supervised"]).objective == shipped_options("objective/supervised")


def test_another_optimiser_does_not_inherit_the_recipes_rate():
    assert compose(["recipe=audiopg"]).optim["lr"] == 1e-4
    assert compose(["recipe=audiopg", "optim=lars"]).optim == shipped_options("optim/lars")
    found = compose(["recipe=audiopg", "optim=lars", "optim.momentum=0.5"]).optim
    assert found == shipped_options("optim/lars", momentum=0.5)


def test_finetunings_own_parts_likewise():
    found = compose(["recipe=audiopg", "finetune.optim=lars", "finetune.schedule=plateau"]).finetune
    assert found.optim == shipped_options("optim/lars")
    assert found.schedule == shipped_options("schedule/plateau")
    assert compose(["recipe=audiopg"]).finetune.optim["lr"] == 2e-4


def test_the_same_part_keeps_what_the_recipe_sets():
    assert compose(["recipe=demo", "objective=vcr"]).objective["projector_dims"] == [1024, 1024, 1024]
    assert compose(["recipe=demo", "model=small"]).model["depth"] == 4


def test_another_objective_brings_its_views():
    found = compose(["recipe=synth", "objective=supervised", "views.gain_db=3"])
    assert found.views == {**shipped_options("views/finetune"), "gain_db": 3}
    assert "default_views" not in {**found.objective, **found.finetune.objective}


def test_views_that_are_chosen_stay_and_so_do_those_of_the_same_objective():
    recipe = compose(["recipe=audiopg"]).views
    assert compose(["recipe=audiopg", "objective=supervised", "views=none"]).views["patch_drop"] == recipe["patch_drop"]
    assert compose(["recipe=audiopg", "objective=vcr"]).views == recipe
