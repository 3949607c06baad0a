"""Verifiers from files that a job names (`reward.plugins`): where they lie and what they define. None of them is run.

The reward service's workers alone load such a file; everybody else reads its syntax.
"""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.errors import BadData
from shared.samples.verifiers import known_verifiers

_PARAMETERS = ["completion", "spec", "context"]


def verifiers_for(plugins: Sequence[str], roots: Sequence[Path]) -> Mapping[str, str]:
    """Name → what it judges, of every verifier that a job with these `plugins` may ask for; raises BadData."""
    own = {name: f"of {path}" for path in plugins for name in verifiers_in(find_plugin(path, roots))}
    return {**own, **known_verifiers()}


def find_plugin(path: str, roots: Sequence[Path]) -> Path:
    """The file that `path` names: itself, or relative to a root; raises BadData for one that lies under none."""
    if (file := _under(roots, path)) is not None:
        return file
    allowed = ", ".join(map(str, roots)) or "none: start the services with TRIUNE_REWARD_PLUGINS"
    parts = Path(path).parts
    endings = (str(Path(*parts[place:])) for place in range(1, len(parts)))
    near = next((ending for ending in endings if _under(roots, ending) is not None), None)
    raise BadData(
        f"the plugin {path} is no file under the folders that this deployment allows ({allowed})"
        + (f"; expected {near!r}: a path is relative to such a folder" if near else "")
    )


def _under(roots: Sequence[Path], path: str) -> Path | None:
    """The file of that path, itself or relative to a root, which lies under one."""
    for root in roots:
        file = (root / path).resolve()  # an absolute path stays what it is
        if file.is_relative_to(root.resolve()) and file.is_file():
            return file
    return None


def verifiers_in(file: Path) -> list[str]:
    """The verifiers that a plugin file defines, at least one; raises BadData.

    A public function with three parameters (`completion, spec, context`) is one by its own name; a function
    `compute_score` (verl's signature) is one by the name of the file.
    """
    tree = _parsed(file)
    names = [name for node in tree.body if (name := _verifier(node, file))]
    if not names:
        others = ", ".join(_left_out(tree, file))
        raise BadData(
            f"the plugin {file} defines no verifier{f' ({others})' if others else ''}; expected a function "
            "name(completion, spec, context), or compute_score(data_source, solution_str, ground_truth, extra_info)"
        )
    taken = sorted(set(names) & known_verifiers().keys())
    if taken:
        raise BadData(f"the plugin {file} defines {taken[0]!r}, which there is already; expected another name")
    return names


def left_out(plugins: Sequence[str], roots: Sequence[Path]) -> list[str]:
    """A sentence a function of these plugins that seems to be meant as a verifier and is none; raises BadData."""
    found = [(path, find_plugin(path, roots)) for path in plugins]
    return [
        f"the plugin {path} defines {function}, which is no verifier; expected the parameters {', '.join(_PARAMETERS)}"
        for path, file in found
        for function in _left_out(_parsed(file), file)
    ]


def _left_out(tree: ast.Module, file: Path) -> list[str]:
    """The public functions with other parameters than a verifier's that nothing in the file uses."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return [
        f"{node.name}({ast.unparse(node.args)})"
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if node.name not in used and _verifier(node, file) is None
    ]


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadData(f"the plugin {file} cannot be read: {error.strerror}") from error
    except (ValueError, SyntaxError) as error:
        raise BadData(f"the plugin {file} is no Python file: {error}") from error


def _verifier(node: ast.stmt, file: Path) -> str | None:
    """The name of the verifier that a statement of the file defines."""
    if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
        return None
    parameters = [argument.arg for argument in node.args.args]
    if node.name == "compute_score" and parameters[:1] == ["data_source"]:
        return file.stem
    return node.name if parameters == _PARAMETERS else None
