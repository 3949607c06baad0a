"""Docs that are generated from the code are up to date."""

from pathlib import Path

from tools.job_file_page import page

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_on_the_job_file_is_the_one_that_the_code_gives() -> None:
    assert (DOCS / "job-file.md").read_text() == page(), "run: python -m tools.job_file_page > docs/job-file.md"
