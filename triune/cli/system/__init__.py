"""The five services as a system: one of them, all of them here, a demo; and whether a machine and they are well."""
