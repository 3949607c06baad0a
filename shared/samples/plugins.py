"""Verifiers from files that a job names (`reward.plugins`): where they lie and what they define. None of them is run.

The reward service's workers alone load such a file; everybody else reads its syntax.
"""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.errors import BadData
from shared.samples.verifiers import known_verifiers


def verifiers_for(plugins: Sequence[str], roots: Sequence[Path]) -> Mapping[str, str]:
    """Name → what it judges, of every verifier that a job with these `plugins` may ask for; raises BadData."""
    own = {name: f"of {path}" for path in plugins for name in verifiers_in(find_plugin(path, roots))}
    return {**own, **known_verifiers()}


def find_plugin(path: str, roots: Sequence[Path]) -> Path:
    """The file that `path` names: itself, or relative to a root; raises BadData for one that lies under none."""
    for root in roots:
        file = (root / path).resolve()  # an absolute path stays what it is
        if file.is_relative_to(root.resolve()) and file.is_file():
            return file
    allowed = ", ".join(map(str, roots)) or "none: start the services with TRIUNE_REWARD_PLUGINS"
    raise BadData(f"the plugin {path} is no file under the folders that this deployment allows ({allowed})")


def verifiers_in(file: Path) -> list[str]:
    """The verifiers that a plugin file defines, at least one; raises BadData.

    A public function with three parameters (`completion, spec, context`) is one by its own name; a function
    `compute_score` (verl's signature) is one by the name of the file.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadData(f"the plugin {file} cannot be read: {error.strerror}") from error
    except (ValueError, SyntaxError) as error:
        raise BadData(f"the plugin {file} is no Python file: {error}") from error
    names = [name for node in tree.body if (name := _verifier(node, file))]
    if not names:
        raise BadData(
            f"the plugin {file} defines no verifier; expected a function name(completion, spec, context), "
            "or compute_score(data_source, solution_str, ground_truth, extra_info)"
        )
    taken = sorted(set(names) & known_verifiers().keys())
    if taken:
        raise BadData(f"the plugin {file} defines {taken[0]!r}, which there is already; expected another name")
    return names


def _verifier(node: ast.stmt, file: Path) -> str | None:
    """The name of the verifier that a statement of the file defines."""
    if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
        return None
    parameters = [argument.arg for argument in node.args.args]
    if node.name == "compute_score" and parameters[:1] == ["data_source"]:
        return file.stem
    return node.name if parameters == ["completion", "spec", "context"] else None
