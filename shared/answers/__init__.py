"""The tolerant reader: what an answer says, in whatever form a model or a data set wrote it. Pure text, linear time."""
