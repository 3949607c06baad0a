"""What a request asks of a job, with every mistake at once, before the job is taken or changed."""
