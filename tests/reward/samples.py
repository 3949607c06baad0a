"""Small samples, and verifiers that misbehave on purpose."""

import os
import signal
import sys

from services.reward.verdict import Context, Sample, Verdict
from shared.messages import RewardSpec


def math(content: str, truth: str = "4", deadline_s: float = 10.0) -> Sample:
    """A boxed answer against a boxed truth; the reward is the accuracy."""
    return text(f"\\boxed{{{content}}}", "mathverify", f"\\boxed{{{truth}}}", deadline_s)


def text(completion: str, verifier: str = "mathverify", truth: str = "\\boxed{4}", deadline_s: float = 10.0) -> Sample:
    spec = RewardSpec(verifier=verifier, answer="", ground_truth=truth, format_ratio=0.0)
    return Sample(completion=completion, spec=spec, deadline_s=deadline_s)


def misbehave(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """A verifier that does what the completion says."""
    match completion:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":  # deaf to the worker's own alarm
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            signal.pause()
        case "loop":
            while True:
                pass
        case "memory":
            bytearray(64 * 1024**3)
        case "grow":
            sys.modules[__name__].__dict__["kept"] = bytearray(b"x") * (600 * 1024**2)
        case "raise":
            raise RuntimeError("on purpose")
        case "print":
            sys.stdout.write("noise\n" * 100)
    return Verdict(1.0, 1.0)
