"""The built-in verifiers, one file each; the file's name is what a sample asks for.

Each has one function, `score(completion, spec, context) -> Verdict`, that raises `VerifierError` for a sample that
cannot be scored. Another package adds one through the entry point group `triune.verifiers`: name = "package.module".
"""
