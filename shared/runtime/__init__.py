"""What every process needs around its work: settings, logs, telemetry, health over HTTP."""
