"""Puts the monitor together: the reading of jobs, the REST API and the page."""

import asyncio
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from fastapi.staticfiles import StaticFiles
from opentelemetry import metrics
from starlette.responses import FileResponse

from services.monitor.api.app import create_app
from services.monitor.api.comparisons import ComparisonRoutes
from services.monitor.api.jobs import JobRoutes
from services.monitor.api.prose import prose_routes
from services.monitor.api.replicas import Replicas
from services.monitor.api.runs import RunRoutes
from services.monitor.api.services import ServiceRoutes
from services.monitor.api.times import TimeRoutes
from services.monitor.config import MonitorConfig
from services.monitor.control import Control
from services.monitor.handlers import Desk
from services.monitor.live import Live
from services.monitor.metrics import MonitorMetrics
from services.monitor.sampling import Sampler
from shared.errors import Unavailable
from shared.jobs.lease import while_leading
from shared.runtime.logging import get_logger
from shared.runtime.memory import keep_large_blocks_apart
from shared.service import Ports, Service, Status, run

PAGE = Path(__file__).parent / "page"


class Monitor:
    """The monitor's parts and loops."""

    def __init__(self, ports: Ports, config: MonitorConfig) -> None:
        self._ports, self._config = ports, config
        self.status = Status()
        self.desk = Desk(
            bus=ports.bus,
            jobs=ports.jobs,
            runs=ports.settings.runs,
            blobs=ports.blobs,
            live=Live(),
            metrics=MonitorMetrics(metrics.get_meter("triune.monitor")),
            config=config,
        )
        self.control = Control(self.desk)
        self.replicas = Replicas(config.silent_s, config.forget_s)
        self.sampler = Sampler(self.desk, self.control, self.replicas, ports.ledger)
        routers = [
            JobRoutes(self.desk, self.control, ports.settings, ports.retry).router,
            RunRoutes(self.desk, self.control).router,
            ServiceRoutes(self.desk, self.control, self.replicas, ports.ledger, ports.retry).router,
            ComparisonRoutes(self.desk, self.control).router,
            TimeRoutes(self.desk, self.control).router,
            prose_routes(),
            page_routes(),
        ]
        self.api = create_app(
            ports.settings, config, routers, lambda: self.status.ready, lambda: bool(ports.retry.waiting_for)
        )
        self.api.mount("/page", StaticFiles(directory=PAGE))

    async def lead(self) -> None:
        """Be the one active monitor; while another one is, or the bus is away, only the API answers."""
        bus, replica = self._ports.bus, self._ports.settings.replica
        while True:
            self.status.state, self.status.ready = "waiting for the lease", False
            try:
                await while_leading(bus, "monitor", replica, self._control_jobs)
            except Unavailable as error:
                get_logger().warning("the bus does not answer; trying again", error=str(error))
                await asyncio.sleep(self._config.promote_s)

    async def _control_jobs(self) -> None:
        self.status.state, self.status.ready = "reading", True
        await self.control.run()

    async def listen(self) -> None:
        """Hear the heartbeats of all services."""
        async for heartbeat in self._ports.bus.heartbeats():
            self.replicas.on_heartbeat(heartbeat)

    def service(self) -> Service:
        settings = self._ports.settings
        return Service(
            name="monitor",
            loops=[self.lead, self.listen, self.sampler.run],
            status=self.status,
            http=(self.api, settings.api_host, settings.api_port),
        )


def page_routes() -> APIRouter:
    """The page itself; its modules and styles lie under /page."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": _CONTENT_POLICY})

    script = _katex_script()
    if script is not None:

        @router.get("/page/katex.min.js")
        async def katex() -> FileResponse:
            return FileResponse(script, headers={"Cache-Control": "max-age=86400"})

    return router


def _katex_script() -> Path | None:
    """KaTeX, of sphinxcontrib-katex (extra `page`); nothing else of it is used, so its own needs are not installed."""
    package = find_spec("sphinxcontrib")
    folders = (package.submodule_search_locations or ()) if package is not None else ()
    return next((script for folder in folders if (script := Path(folder) / "katex.min.js").is_file()), None)


_CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'"
)
"""The page shows hostile text: it may load nothing from elsewhere and run no inline script."""


def build(ports: Ports) -> Service:
    keep_large_blocks_apart()  # pixels of a figure, tables of points
    get_logger().info("the API is served", host=ports.settings.api_host, port=ports.settings.api_port)
    return Monitor(ports, MonitorConfig()).service()


def main() -> int:
    return run("monitor", build)
