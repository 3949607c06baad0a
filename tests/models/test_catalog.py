"""The allow-list: found by files, read from config.json, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import BadJob
from shared.models.catalog import family_in, family_of, known_families


def test_every_family_says_what_the_services_ask_of_it() -> None:
    for model_type, family in known_families().items():
        assert model_type in family.model_types
        assert family.image_marks and family.turn_marks


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"model_type": "llama"}', "has model_type 'llama'; expected one of "),
        ("{}", "has model_type None; expected one of "),
        ("[1]", "holds a list; expected an object"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_what_is_not_known_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadJob, match=sentence) as found:
        family_in(tmp_path)
    assert len(found.value.mistakes) == 1


def test_a_type_that_only_begins_alike_is_not_known() -> None:
    with pytest.raises(BadJob, match="qwen3_vl_moe"):
        family_of("qwen3_vl_moe", "a model")


def test_the_catalog_needs_no_torch() -> None:
    code = (
        "import sys; from shared.models.catalog import known_families; from shared.models import inputs; "
        "known_families(); sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
