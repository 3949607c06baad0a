"""Other data sets become files in the schema: a format a module, each a stream of drafts that `writer` writes."""
