"""From a group that arrives to arrays: what is void, what is kept, and images made ready."""
