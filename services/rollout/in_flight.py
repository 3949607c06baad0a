"""Which training groups are being generated, as the ledger shows it."""

import asyncio
import contextlib

from shared.errors import Unavailable
from shared.ledger.port import Ledger
from shared.messages import Prompt


class InFlight:
    """All that began and ended since the last word goes in one call: a step's groups begin within a millisecond."""

    def __init__(self, ledger: Ledger, job: str, deadline_s: float) -> None:
        self._ledger, self._job, self._deadline_s = ledger, job, deadline_s
        self._started, self._ended = set[int](), set[int]()
        self._news = asyncio.Event()

    def start(self, prompt: Prompt) -> None:
        """The group is being generated."""
        self._note(prompt, self._started, self._ended)

    def end(self, prompt: Prompt) -> None:
        """It is not any more."""
        self._note(prompt, self._ended, self._started)

    def _note(self, prompt: Prompt, now: set[int], before: set[int]) -> None:
        if prompt.kind == "train":
            before.discard(prompt.ordinal)
            now.add(prompt.ordinal)
            self._news.set()

    async def keep_telling(self) -> None:
        """Tell the ledger, for ever."""
        while True:
            await self._news.wait()
            await self.tell()

    async def tell(self) -> None:
        """Tell the ledger what it does not know; a view: a server that is away stops nothing."""
        started, ended = self._started, self._ended
        self._started, self._ended = set(), set()
        self._news.clear()
        if started or ended:
            with contextlib.suppress(Unavailable):
                await self._ledger.groups(self._job, started, ended, self._deadline_s)
