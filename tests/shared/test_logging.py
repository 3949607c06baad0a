"""Log lines."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from shared.runtime.logging import get_logger, set_up_logging

set_up_logging("reward", "reward-0")
for number in range(1000):
    get_logger().info("said", number=number)
print("it lives")
"""


def test_a_line_is_a_json_object_with_its_service_and_facts() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["number"] for line in lines] == list(range(1000))
    assert {(line["service"], line["replica"], line["level"], line["event"]) for line in lines} == {
        ("reward", "reward-0", "info", "said")
    }


def test_a_log_on_a_full_disk_ends_no_process() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=full, text=True)
    assert ended.stdout == "it lives\n"
