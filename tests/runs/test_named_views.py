import yaml
from shipped import shipped_options
from test_paired import runs  # noqa: F401 - a fixture

from vcrast.runs.compare import compare
from vcrast.runs.named_views import names_of_views


def flat(name, **changes):
    found = {f"views.{key}": value for key, value in shipped_options(f"views/{name}", **changes).items()}
    augment = found.pop("views.augment")
    return found | {f"views.augment.{key}": value for key, value in augment.items()}


def test_views_are_named_where_runs_differ_in_them_and_all_have_a_name():
    two = [flat("columns_rows"), flat("masks")]
    assert names_of_views(two, ["views.drop"]) == [{"views.name": "columns_rows"}, {"views.name": "masks"}]
    assert names_of_views(two, ["optim.lr"]) == [{}, {}]
    assert names_of_views([*two, flat("masks", patch_drop=0.7)], ["views.drop"]) == [{}, {}, {}]


def test_a_variant_is_called_by_the_name_of_its_views(runs):  # noqa: F811 - the fixture
    for folder in runs.iterdir():
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        settings["views"] = shipped_options("views/masks" if folder.name[0] == "a" else "views/columns_rows")
        settings["attention"]["name"] = "softmax"
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    assert [variant.label for variant in compare([runs]).variants] == ["views=masks", "views=columns_rows"]
