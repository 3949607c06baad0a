"""Triune's generic import names belong to it alone."""

from importlib.metadata import packages_distributions


def test_no_other_distribution_ships_our_import_names() -> None:
    found = packages_distributions()
    for name in ("services", "shared", "triune"):
        assert set(found.get(name, ["triune"])) == {"triune"}, f"{name} is shipped by {found[name]}"
