"""Seeded schedules of deaths and outages against real jobs over real processes (`make chaos`)."""
